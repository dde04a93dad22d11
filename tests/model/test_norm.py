import pytest
import torch
from torch.nn import functional as F

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
