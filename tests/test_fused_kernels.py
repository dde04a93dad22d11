"""The real Triton kernels of mamba-ssm, in Triton's interpreter, against the recurrence.

Needs no GPU, but an environment of its own: `make test-interpreter`. The convolution is a stand-in
with the signature of causal-conv1d, so of that half only our calls are tested here.
"""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.backends.fused import FusedScan
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.config import Mamba2Config
from biomamba.model.isolation_probe import probe_isolation
from biomamba.model.language_model import MambaLM
from biomamba.model.mamba2 import Mamba2Mixer
from biomamba.runtime.errors import ConfigError

pytest.importorskip("interpreted_kernels", reason="make test-interpreter").interpret()

CHUNK = 16
LENGTH = 40  # two whole chunks and a half
NAMES = ["y", "final_state", "x", "dt", "A", "B", "C", "initial_state"]
# On the edge of a chunk, off it, on the last position, documents of one position, and a document
# that spans two edges.
BOUNDARIES = [(16,), (19, 32), (39,), (3, 4, 5, 31), (14, 33)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def scan_inputs(heads: int = 2, groups: int = 1, batch: int = 1) -> list[Tensor]:
    """Random x, dt, A, B, C, initial_state in float32."""
    x, state = draw(batch, LENGTH, heads, 8), draw(batch, heads, 8, 16)
    dt, A = draw(batch, LENGTH, heads).exp() * 0.1, -draw(heads).exp()
    B, C = draw(batch, LENGTH, groups, 16), draw(batch, LENGTH, groups, 16, seed=1)
    return [t.requires_grad_() for t in (x, dt, A, B, C, state)]


def documents_at(starts: tuple[int, ...], batch: int = 1) -> Tensor:
    row = torch.zeros(LENGTH, dtype=torch.int32)
    row[list(starts)] = 1
    return row.cumsum(0, dtype=torch.int32).expand(batch, -1)


def results(
    backend: FusedScan | ReferenceScan, inputs: list[Tensor], seq_idx: Tensor | None
) -> list[Tensor]:
    """Output, final state and the gradients of all inputs; five inputs: no initial state."""
    state = inputs[5] if len(inputs) == len(NAMES) - 2 else None
    y, final = backend.scan(*inputs[:5], seq_idx=seq_idx, initial_state=state)
    loss = (y * draw(*y.shape, seed=2).to(y.dtype)).sum() + (final * draw(*final.shape)).sum()
    return [y, final, *torch.autograd.grad(loss, inputs)]


def assert_same(
    inputs: list[Tensor], seq_idx: Tensor | None, tolerance: float, oracle: list[Tensor]
) -> None:
    """Compare with the recurrence, relative to the largest entry."""
    actual = results(FusedScan(CHUNK), inputs, seq_idx)
    expected = results(ReferenceScan(), oracle, seq_idx)
    for name, a, e in zip(NAMES, actual, expected, strict=False):
        error = (a.double() - e.double()).abs().max() / e.abs().max().clamp(min=1e-30)
        assert error <= tolerance, f"{name}: {error:.2g} of the largest entry"


# float32: 2^-24 for each of at most LENGTH + 16 summed products, all of the size of the largest.
FLOAT32 = (LENGTH + 16) * 2**-24


@pytest.mark.parametrize("starts", [(), *BOUNDARIES], ids=str)
def test_kernels_agree_with_the_recurrence(starts: tuple[int, ...]) -> None:
    inputs = scan_inputs()
    seq_idx = documents_at(starts) if starts else None
    assert_same(inputs, seq_idx, FLOAT32, inputs)


@pytest.mark.parametrize("starts", [(), (19, 32)], ids=str)
def test_kernels_begin_with_an_empty_state(starts: tuple[int, ...]) -> None:
    inputs = scan_inputs()[:5]
    assert_same(inputs, documents_at(starts) if starts else None, FLOAT32, inputs)


def test_kernels_share_maps_within_groups_and_tell_rows_apart() -> None:
    inputs = scan_inputs(heads=4, groups=2, batch=2)
    seq_idx = torch.cat([documents_at((16,)), documents_at((5, 37))])
    assert_same(inputs, seq_idx, FLOAT32, inputs)


def test_a_returning_number_is_another_document() -> None:
    inputs = scan_inputs()
    returning = documents_at((9, 20)) % 2
    expected = results(FusedScan(CHUNK), inputs, documents_at((9, 20)))
    for a, e in zip(results(FusedScan(CHUNK), inputs, returning), expected, strict=True):
        assert torch.equal(a, e)


def test_kernels_in_half_precision() -> None:
    # The interpreter multiplies the bits of bfloat16 as integers: that is left to a GPU.
    dtype, unit = torch.float16, 2**-11
    inputs = scan_inputs()
    for number in (0, 3, 4):  # x, B, C as under autocast
        inputs[number] = inputs[number].detach().to(dtype).requires_grad_()
    wide = [t.detach().float().requires_grad_() for t in inputs]
    # Six roundings to half precision are between an input and a gradient: x, B or C, states and
    # decayed scores between the products, the gradient of y, and the result.
    assert_same(inputs, documents_at((19, 32)), 6 * unit, wide)
    y, final = FusedScan(CHUNK).scan(*inputs[:5])
    assert (y.dtype, final.dtype) == (dtype, torch.float32)


def mixers(groups: int) -> tuple[Mamba2Mixer, Mamba2Mixer]:
    """The same mixer by the kernels and by chunks."""
    config = Mamba2Config(
        d_model=16, n_layer=1, vocab_size=8, d_state=16, headdim=4, ngroups=groups
    )
    torch.manual_seed(0)
    fused, plain = Mamba2Mixer(config, FusedScan(CHUNK)), Mamba2Mixer(config, ChunkedScan(CHUNK))
    for parameter in fused.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    plain.load_state_dict(fused.state_dict())
    return fused, plain


def mixer_results(mixer: Mamba2Mixer, u: Tensor, *rest: object) -> list[Tensor]:
    output, state = mixer(u, *rest)
    loss = (output * draw(*output.shape, seed=3)).sum() + (state.ssm * draw(*state.ssm.shape)).sum()
    gradients = torch.autograd.grad(loss, [u, *mixer.parameters()])
    return [t.detach() for t in (output, *state, *gradients)]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("starts", [(), (19, 32)], ids=str)
def test_the_kernel_of_a_whole_mixer(
    starts: tuple[int, ...], groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused, plain = mixers(groups)
    assert not isinstance(plain.backend, FusedScan)
    monkeypatch.setattr(FusedScan, "scan", None)  # all goes through `mix`
    u = draw(1, LENGTH, 16).requires_grad_()
    documents = documents_at(starts) if starts else None
    expected = mixer_results(plain, u, documents)
    for a, e in zip(mixer_results(fused, u, documents), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=2e-6 * float(e.abs().max()))


@pytest.mark.parametrize("starts", [(), (2, 19)], ids=str)
def test_a_mixer_that_goes_on_from_a_state(starts: tuple[int, ...]) -> None:
    fused, plain = mixers(1)
    u = draw(1, LENGTH, 16).requires_grad_()
    _, state = plain(draw(1, 7, 16, seed=4))
    state = type(state)(*(t.detach() for t in state))
    documents = documents_at(starts) if starts else None
    expected = mixer_results(plain, u, documents, state)
    for a, e in zip(mixer_results(fused, u, documents, state), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=2e-6 * float(e.abs().max()))


@pytest.mark.parametrize("headdim", [4, 8])  # projected to a multiple of eight, and not
def test_the_probe_passes_the_kernels_and_stops_them_without_documents(
    headdim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=8, d_state=16, headdim=headdim)
    backend = FusedScan(CHUNK)
    model = MambaLM(config, backend)
    found = probe_isolation(model, torch.device("cpu"), torch.float32)

    assert found.backend == "fused"
    assert max(found.output_error, found.gradient_error) < 1e-5
    if headdim == 8:
        forgetful = functools.partial(_without_documents, backend._kernels.scan)
        monkeypatch.setattr(backend, "_kernels", backend._kernels._replace(scan=forgetful))
        with pytest.raises(ConfigError, match="backend=fused does not keep the documents"):
            probe_isolation(model, torch.device("cpu"), torch.float32)


def _without_documents(scan: Any, *tensors: Any, **options: Any) -> Any:
    return scan(*tensors, **options | {"seq_idx": None})
