"""The contract: every backend found in the package agrees with the plain recurrence."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model import backends, ssd
from biomamba.model.backends.reference import ReferenceScan
from biomamba.runtime.errors import MissingDependencyError

BACKENDS = sorted(
    path.stem
    for path in Path(backends.__path__[0]).glob("*.py")
    if path.stem not in {"__init__", "fused"}  # no float64: tests/test_fused_kernels.py
)


def make_backend(name: str) -> Any:
    module = importlib.import_module(f"biomamba.model.backends.{name}")
    (cls,) = (c for c in vars(module).values() if getattr(c, "name", None) == name)
    try:
        return cls()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def scan_inputs(length: int, heads: int = 4, groups: int = 2) -> tuple[Tensor, ...]:
    """Random x, dt, A, B, C, initial_state in float64."""
    generator = torch.Generator().manual_seed(length)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, state = randn(2, length, heads, 3), randn(2, heads, 3, 5)
    dt, A = randn(2, length, heads).exp() * 0.1, -randn(heads).exp()
    B, C = randn(2, length, groups, 5), randn(2, length, groups, 5)
    return tuple(t.requires_grad_() for t in (x, dt, A, B, C, state))


def selective_inputs(length: int, static: str = "") -> tuple[Tensor, ...]:
    """Those of the scan of Mamba-1; the maps in `static` are the same at all positions."""
    x, dt, _, B, C, state = (t.detach() for t in scan_inputs(length))
    A = -torch.arange(1.0, 6.0).double() * torch.linspace(0.1, 2.0, 12).double().unsqueeze(-1)
    of_channels = state[0].flatten(0, 1)  # (12, 5)
    maps = [of_channels + i if "BC"[i] in static else t[:, :, 0] for i, t in enumerate((B, C))]
    inputs = (x.flatten(2), dt.repeat_interleave(3, 2), A, *maps, state.flatten(1, 2))
    return tuple(t.clone().requires_grad_() for t in inputs)


def results(backend: Any, inputs: tuple[Tensor, ...], seq_idx: Tensor | None) -> list[Tensor]:
    """Output, final state and the gradients of all six inputs, of either scan."""
    *first, state = inputs
    scan = backend.scan if first[0].dim() == 4 else backend.selective_scan
    y, final = scan(*first, seq_idx=seq_idx, initial_state=state)
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (t * torch.randn(t.shape, generator=generator, dtype=t.dtype)).sum() for t in (y, final)
    )
    return [y, final, *torch.autograd.grad(loss, inputs)]


def assert_same(backend: Any, inputs: tuple[Tensor, ...], seq_idx: Tensor | None) -> None:
    expected = results(ReferenceScan(), inputs, seq_idx)
    actual = results(backend, inputs, seq_idx)
    names = ["y", "final_state", "x", "dt", "A", "B", "C", "initial_state"]
    for name, a, e in zip(names, actual, expected, strict=True):
        # Float64 rounding over 300 summed positions.
        torch.testing.assert_close(
            a, e, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
        )


def boundaries_at(length: int, *starts: int) -> Tensor:
    """seq_idx of two equal rows whose documents start at 0 and at `starts`."""
    row = torch.zeros(length, dtype=torch.int32)
    row[[start for start in starts if start < length]] = 1
    return row.cumsum(0, dtype=torch.int32).expand(2, -1)


def test_backends_are_found() -> None:
    assert {"reference", "chunked"} <= set(BACKENDS)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130, 300])
@pytest.mark.parametrize("name", BACKENDS)
def test_backend_agrees_with_recurrence(name: str, length: int) -> None:
    assert_same(make_backend(name), scan_inputs(length), None)


@pytest.mark.parametrize(
    "starts",
    [(64,), (64, 128), (63, 65), (1,), (129,), tuple(range(60, 70)), (3, 5, 6, 64, 100, 127)],
    ids=str,
)
@pytest.mark.parametrize("name", BACKENDS)
def test_backend_resets_at_boundaries(name: str, starts: tuple[int, ...]) -> None:
    assert_same(make_backend(name), scan_inputs(130), boundaries_at(130, *starts))


@pytest.mark.parametrize("static", ["", "B", "C", "BC"])
@pytest.mark.parametrize("length", [1, 16, 17, 130])
@pytest.mark.parametrize("name", BACKENDS)
def test_backend_agrees_with_recurrence_of_mamba1(name: str, length: int, static: str) -> None:
    inputs = selective_inputs(length, static)
    assert_same(make_backend(name), inputs, None)
    assert_same(make_backend(name), inputs, boundaries_at(length, 5, 16, 64, 65))


@pytest.mark.parametrize(("heads", "groups"), [(1, 1), (3, 1), (2, 2), (6, 3)])
@pytest.mark.parametrize("name", BACKENDS)
def test_backend_shares_maps_within_groups(name: str, heads: int, groups: int) -> None:
    assert_same(make_backend(name), scan_inputs(65, heads, groups), boundaries_at(65, 20))


@pytest.mark.parametrize("name", BACKENDS)
def test_documents_of_rows_differ(name: str) -> None:
    seq_idx = torch.stack([boundaries_at(65, 7)[0], boundaries_at(65, 30, 64)[0]])
    assert_same(make_backend(name), scan_inputs(65), seq_idx)


@pytest.mark.parametrize("name", BACKENDS)
def test_returning_seq_idx_is_another_document(name: str) -> None:
    inputs = scan_inputs(30)
    returning = torch.tensor([0] * 10 + [1] * 10 + [0] * 10).expand(2, -1)
    a = results(make_backend(name), inputs, returning)
    b = results(make_backend(name), inputs, boundaries_at(30, 10, 20))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cut", [1, 40, 64])
@pytest.mark.parametrize("name", BACKENDS)
def test_two_segments_equal_one_pass(name: str, cut: int) -> None:
    backend = make_backend(name)
    x, dt, A, B, C, state = (t.detach() for t in scan_inputs(90))
    whole, final = backend.scan(x, dt, A, B, C, initial_state=state)
    first, middle = backend.scan(
        *(t[:, :cut] for t in (x, dt)), A, *(t[:, :cut] for t in (B, C)), initial_state=state
    )
    second, last = backend.scan(
        *(t[:, cut:] for t in (x, dt)), A, *(t[:, cut:] for t in (B, C)), initial_state=middle
    )
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(last, final)


@pytest.mark.parametrize("dt_value", [1e-8, 50.0, 1e4])
@pytest.mark.parametrize("name", BACKENDS)
def test_extreme_decays_stay_finite(name: str, dt_value: float) -> None:
    x, dt, A, B, C, state = (t.detach().float().requires_grad_() for t in scan_inputs(130))
    dt = torch.full_like(dt, dt_value).requires_grad_()
    inputs = (x, dt, A, B, C, state)
    assert all(r.isfinite().all() for r in results(make_backend(name), inputs, None))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Relative error of the largest entry: a few units in the last place (2^-9, 2^-12) of
    # products that sum over at most 64 positions.
    [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)],
)
@pytest.mark.parametrize("name", BACKENDS)
def test_half_precision_is_near_float32(name: str, dtype: torch.dtype, tolerance: float) -> None:
    x, dt, A, B, C, state = (t.detach().float() for t in scan_inputs(130))
    seq_idx = boundaries_at(130, 64, 90)
    halves = [t.to(dtype) for t in (x, B, C)]
    options = {"seq_idx": seq_idx, "initial_state": state}
    wide_x, wide_B, wide_C = (t.float() for t in halves)
    expected = ReferenceScan().scan(wide_x, dt, A, wide_B, wide_C, **options)
    actual = make_backend(name).scan(halves[0], dt, A, *halves[1:], **options)
    assert actual[0].dtype == dtype
    assert actual[1].dtype == torch.float32
    for a, e in zip(actual, expected, strict=True):
        assert (a.float() - e).abs().max() <= tolerance * e.abs().max()


def test_document_numbers_count_changes() -> None:
    seq_idx = torch.tensor([[5, 5, 7, 5], [0, 1, 1, 1]])
    assert ssd.document_numbers(seq_idx).tolist() == [[0, 0, 1, 2], [0, 1, 1, 1]]
