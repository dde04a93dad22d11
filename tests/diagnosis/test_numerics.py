"""Sound backends pass, and each kind of fault is found."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.diagnosis import numerics
from biomamba.diagnosis.machine import State, worst
from biomamba.diagnosis.numerics import (
    check_batches,
    check_fp16_range,
    check_isolation,
    check_parity,
)
from biomamba.model.backends.chunked import ChunkedScan

CPU = torch.device("cpu")


class Faulty(ChunkedScan):
    """Changes its inputs or outputs as told."""

    def __init__(self, change: Callable[[Tensor], Tensor], **given: Any) -> None:
        super().__init__()
        self._change, self._given = change, given

    def scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        y, state = super().scan(*tensors, **options | self._given)
        return self._change(y), state


class OnlyBackwards(torch.autograd.Function):
    """Doubles gradients, and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_this_machine_computes_as_the_recurrence_does(dtype: torch.dtype) -> None:
    found = list(check_parity(CPU, dtype))

    assert worst(found) == State.OK
    assert len(found) == (1 if dtype == torch.float32 else 2)


@pytest.mark.parametrize(
    "backend",
    [
        Faulty(lambda y: y * 1.001),
        Faulty(lambda y: y, seq_idx=None),
        Faulty(OnlyBackwards.apply),
        Faulty(lambda y: y * torch.nan),
    ],
    ids=["scaled", "leaks", "gradients", "nan"],
)
def test_a_faulty_backend_is_found(backend: ChunkedScan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "ChunkedScan", lambda: backend)

    assert [finding.state for finding in check_parity(CPU, torch.float32)] == [State.PROBLEM]


def test_documents_batches_and_range_are_right_here() -> None:
    for found in (
        check_isolation(CPU, torch.float32),
        check_isolation(CPU, torch.bfloat16),
        check_batches(CPU),
        check_fp16_range(CPU),
    ):
        assert worst(found) == State.OK


@pytest.mark.parametrize(
    ("backend", "check"),
    [
        (Faulty(lambda y: y, seq_idx=None), lambda: check_isolation(CPU, torch.float32)),
        (Faulty(lambda y: y + y.mean(0, keepdim=True)), lambda: check_batches(CPU)),
        (Faulty(lambda y: y * 1e6), lambda: check_fp16_range(CPU)),
    ],
    ids=["isolation", "batches", "range"],
)
def test_each_check_finds_its_fault(
    backend: ChunkedScan, check: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numerics, "AutoScan", lambda: backend)

    (found,) = check()

    assert found.state == State.PROBLEM
    assert found.remedy


def test_checks_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()

    for check in (check_batches(CPU), check_fp16_range(CPU), check_parity(CPU, torch.float32)):
        list(check)

    assert torch.equal(torch.get_rng_state(), before)
