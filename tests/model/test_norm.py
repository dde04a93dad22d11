import pytest
import torch
from torch.nn import functional as F

from biomamba.model import norm as norm_module
from biomamba.model.norm import GatedRMSNorm, RMSNorm


def rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def test_norm_is_the_formula() -> None:
    norm = RMSNorm(6, eps=0.1).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 6, dtype=torch.float64)

    torch.testing.assert_close(norm(x), rms(x, 0.1) * norm.weight)


@pytest.mark.parametrize("ngroups", [1, 3])
def test_gated_norm_is_the_formula_per_group(ngroups: int) -> None:
    norm = GatedRMSNorm(6, eps=0.1, ngroups=ngroups).double()
    torch.nn.init.normal_(norm.weight)
    y, z = torch.randn(2, 2, 3, 6, dtype=torch.float64)

    parts = (y * F.silu(z)).chunk(ngroups, dim=-1)
    expected = torch.cat([rms(part, 0.1) for part in parts], dim=-1) * norm.weight
    torch.testing.assert_close(norm(y, z), expected)


def test_norm_gradients_match_finite_differences() -> None:
    norm = RMSNorm(4, eps=1e-5).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x, _: norm(x), (x, norm.weight))


@pytest.mark.parametrize("ngroups", [1, 2])
def test_gated_norm_gradients_match_finite_differences(ngroups: int) -> None:
    norm = GatedRMSNorm(4, eps=1e-5, ngroups=ngroups).double()
    y, z = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    assert torch.autograd.gradcheck(lambda y, z, _: norm(y, z), (y, z, norm.weight))


def test_the_skip_is_added_before_the_gate() -> None:
    norm = GatedRMSNorm(6, eps=0.1, ngroups=2).double()
    y, z, x = torch.randn(3, 2, 5, 6, dtype=torch.float64)
    D = torch.randn(6, dtype=torch.float64)

    torch.testing.assert_close(norm(y, z, (x, D)), norm(y + D * x, z))


def test_skip_gradients_match_finite_differences() -> None:
    norm = GatedRMSNorm(4, eps=1e-5, ngroups=2).double()
    y, z, x = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    D = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def run(y: torch.Tensor, z: torch.Tensor, x: torch.Tensor, D: torch.Tensor) -> torch.Tensor:
        return norm(y, z, (x, D))

    assert torch.autograd.gradcheck(run, (y, z, x, D))


@pytest.mark.parametrize("elements", [1, 8, 12])
def test_tiles_do_not_change_results(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, gated = RMSNorm(4, eps=1e-5).double(), GatedRMSNorm(4, eps=1e-5).double()
    wide = torch.randn(3, 2, 7, 8, dtype=torch.float64)
    # Rows as they come out of a split and out of a padded scan: not contiguous.
    y, z, x = (part[:, :5, :4].detach().requires_grad_() for part in wide)
    D = torch.randn(4, dtype=torch.float64, requires_grad=True)
    leaves = (y, z, x, D, plain.weight, gated.weight)

    def results() -> list[torch.Tensor]:
        out = plain(gated(y, z, (x, D)))
        return [out, *torch.autograd.grad(out.square().sum(), leaves)]

    expected = results()
    monkeypatch.setattr(norm_module, "_TILE_ELEMENTS", elements)
    torch.testing.assert_close(results(), expected)


def test_nothing_but_the_inputs_is_kept_for_the_backward() -> None:
    norm = GatedRMSNorm(4, eps=1e-5)
    y, z, x = (torch.randn(5, 4).bfloat16().requires_grad_() for _ in range(3))
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        norm(y, z, (x, norm.weight))

    assert set(kept) == {tensor.data_ptr() for tensor in (y, z, x, norm.weight)}


def test_statistics_of_fp16_do_not_overflow() -> None:
    x = torch.full((1, 4), 6e4, dtype=torch.float16)  # its square is beyond fp16

    assert RMSNorm(4, eps=1e-5).half()(x).tolist() == [[1.0] * 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_output_has_the_dtype_of_autocast(dtype: torch.dtype) -> None:
    x = torch.randn(2, 4)
    with torch.autocast("cpu", dtype):
        assert RMSNorm(4, eps=1e-5)(x).dtype == dtype
        assert GatedRMSNorm(4, eps=1e-5)(x, x).dtype == dtype


def test_output_has_the_dtype_of_the_weights_otherwise() -> None:
    assert RMSNorm(4, eps=1e-5).bfloat16()(torch.randn(2, 4)).dtype == torch.bfloat16
