"""The scan of Mamba-1 against the plain recurrence, with tiles small enough to have many."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from biomamba.model import selective_scan
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.backends.reference import ReferenceScan

BATCH, CHANNELS, STATES = 3, 5, 4
NAMES = ("x", "dt", "A", "B", "C", "initial_state")


@pytest.fixture(params=[1, 128, 2**16], ids=lambda elements: f"tile{elements}")
def _tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiles of a channel and a row and 16 positions, of a few of each, or of everything."""
    monkeypatch.setattr(selective_scan, "_TILE_ELEMENTS", request.param)
    return


def draw(length: int, static: Sequence[str] = (), seed: int = 0) -> dict[str, Tensor]:
    """Return float64 inputs by name; those in `static` are the same at all positions."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    maps = {
        name: normal(CHANNELS, STATES) if name in static else normal(BATCH, length, STATES)
        for name in ("B", "C")
    }
    inputs = {
        "x": normal(BATCH, length, CHANNELS),
        "dt": normal(BATCH, length, CHANNELS).abs(),
        "A": -3 * normal(CHANNELS, STATES).abs(),
        **maps,
        "initial_state": normal(BATCH, CHANNELS, STATES),
    }
    return {name: tensor.requires_grad_() for name, tensor in inputs.items()}


def results(
    backend: ChunkedScan | ReferenceScan, inputs: dict[str, Tensor], seq_idx: Tensor | None
) -> dict[str, Tensor]:
    """Return outputs, final states and all gradients of a sum with different weights.

    The weights are exact in half precision too.
    """
    y, final = backend.selective_scan(**inputs, seq_idx=seq_idx)
    weights = [(torch.arange(t.numel(), device=t.device) % 7 - 2).view_as(t) for t in (y, final)]
    loss = (weights[0] * y).sum() + (weights[1] * final).sum()
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    return {"y": y, "final": final, **dict(zip(inputs, gradients, strict=True))}


def assert_equals_the_recurrence(inputs: dict[str, Tensor], seq_idx: Tensor | None) -> None:
    expected = results(ReferenceScan(), inputs, seq_idx)
    # Float64: sums of at most 300 x 15 terms of size 10 round at 1e-12.
    for name, found in results(ChunkedScan(), inputs, seq_idx).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.usefixtures("_tile")
@pytest.mark.parametrize("length", [1, 15, 16, 17, 32, 130, 300])
def test_equals_the_recurrence(length: int) -> None:
    assert_equals_the_recurrence(draw(length), None)


@pytest.mark.usefixtures("_tile")
@pytest.mark.parametrize("starts", [(1,), (15, 16, 17), (16, 32), (5, 6, 7, 40), range(1, 50)])
def test_nothing_passes_a_boundary(starts: Sequence[int]) -> None:
    """Boundaries at, before and after the edge of a tile, next to each other, and everywhere."""
    rows = torch.zeros(BATCH, 50, dtype=torch.int32)
    rows[1, list(starts)] = 1  # other rows: none, and elsewhere
    rows[2, 33] = 1
    seq_idx = rows.cumsum(1)
    inputs = draw(50)
    assert_equals_the_recurrence(inputs, seq_idx)

    last = max(starts)
    alone = {n: t if n == "A" else t[1:2, last:] for n, t in inputs.items()}
    del alone["initial_state"]
    y, final = ChunkedScan().selective_scan(**inputs, seq_idx=seq_idx)
    y_alone, final_alone = ChunkedScan().selective_scan(**alone)
    torch.testing.assert_close((y[1:2, last:], final[1:2]), (y_alone, final_alone))


@pytest.mark.usefixtures("_tile")
@pytest.mark.parametrize("static", [("B",), ("C",), ("B", "C")])
def test_maps_of_all_positions_equal_the_recurrence(static: Sequence[str]) -> None:
    assert_equals_the_recurrence(draw(40, static), None)


def test_gradients_match_finite_differences() -> None:
    inputs = draw(20)
    seq_idx = (torch.arange(20) >= 17).int().expand(BATCH, -1)

    def scan(*args: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(NAMES, args, strict=True))
        return ChunkedScan().selective_scan(**named, seq_idx=seq_idx)

    assert torch.autograd.gradcheck(scan, tuple(inputs[name] for name in NAMES), fast_mode=True)


@pytest.mark.usefixtures("_tile")
def test_two_segments_with_the_state_equal_one() -> None:
    inputs = draw(40)
    whole, final = ChunkedScan().selective_scan(**inputs)
    parts, state = [], inputs.pop("initial_state")
    for cut in (slice(0, 19), slice(19, 40)):
        part = {n: t if n == "A" else t[:, cut] for n, t in inputs.items()}
        y, state = ChunkedScan().selective_scan(**part, initial_state=state)
        parts.append(y)

    torch.testing.assert_close((torch.cat(parts, 1), state), (whole, final))


@pytest.mark.parametrize(("dtype", "epsilon"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_rounds_only_what_goes_in_and_out(
    dtype: torch.dtype, epsilon: float
) -> None:
    inputs = {name: tensor.detach().float() for name, tensor in draw(60).items()}
    for name in ("x", "B", "C"):  # the same values, so that only the outputs are rounded
        inputs[name] = inputs[name].to(dtype).float()
    narrow = {n: t.to(dtype) if n in ("x", "B", "C") else t for n, t in inputs.items()}
    for tensor in (*inputs.values(), *narrow.values()):
        tensor.requires_grad_()
    expected = results(ReferenceScan(), inputs, None)
    found = results(ChunkedScan(), narrow, None)

    assert {n: found[n].dtype for n in ("y", "x", "B", "C")} == dict.fromkeys("yxBC", dtype)
    assert {found[n].dtype for n in ("final", "dt", "A", "initial_state")} == {torch.float32}
    for name, tensor in found.items():
        error = (tensor.float() - expected[name]).abs().max()
        assert error <= epsilon * expected[name].abs().max(), name


@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_long_decays_and_huge_steps_stay_finite(rate: float) -> None:
    inputs = {n: t.detach().float() for n, t in draw(40).items()}
    inputs["A"] = inputs["A"] * rate
    inputs["dt"] = inputs["dt"] * 1e3
    found = results(ChunkedScan(), {n: t.requires_grad_() for n, t in inputs.items()}, None)

    assert all(bool(tensor.isfinite().all()) for tensor in found.values())


def test_only_the_states_that_enter_a_tile_are_kept() -> None:
    x = torch.randn(2, 256, 64, requires_grad=True)
    A, B = -torch.rand(64, 16), torch.randn(2, 256, 16)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ChunkedScan().selective_scan(x, x.abs(), A, B, B)
    states = 2 * 256 * 16 * 64
    # x and dt, A, B once, the initial state, and one state for each 16 positions or more.
    known = 2 * x.numel() + A.numel() + B.numel() + states // 256
    assert sum(tensor.numel() for tensor in kept.values()) <= known + states // 16


def test_autocast_does_not_change_the_scan() -> None:
    inputs = {n: t.detach().float() for n, t in draw(30).items()}
    expected = ChunkedScan().selective_scan(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = ChunkedScan().selective_scan(**inputs)

    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_numbers_of_the_cpu() -> None:
    inputs = draw(130)
    seq_idx = (torch.arange(130) >= 64).int().expand(BATCH, -1)
    expected = results(ReferenceScan(), inputs, seq_idx)
    on_gpu = {n: t.detach().cuda().requires_grad_() for n, t in inputs.items()}
    for name, found in results(ChunkedScan(), on_gpu, seq_idx.cuda()).items():
        torch.testing.assert_close(found.cpu(), expected[name])
