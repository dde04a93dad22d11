"""Memory of work and of objects, and its end."""

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from biomamba.timing import measurement as memory
from biomamba.timing.measurement import (
    CudaMemory,
    ProcessMemory,
    exhausted,
    held_bytes,
    memory_meter,
    quick_collection,
    release,
)

CPU = torch.device("cpu")
MIB = 2**20


def test_memory_of_work_is_seen_though_it_was_given_back() -> None:
    def work() -> None:
        torch.ones(64 * MIB, dtype=torch.uint8)

    grown = memory_meter(CPU).growth(work)

    assert grown is not None
    assert 60 * MIB < grown < 80 * MIB


def test_a_system_that_does_not_tell_is_no_zero(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    done: list[int] = []

    assert ProcessMemory().growth(lambda: done.append(1)) is None
    assert done == [1]


def test_a_gpu_is_asked_itself() -> None:
    assert isinstance(memory_meter(torch.device("cuda")), CudaMemory)


def test_tensors_that_share_memory_count_once() -> None:
    table = torch.zeros(10, 4)
    model = nn.Linear(4, 10, bias=False)
    model.weight.data = table

    assert held_bytes(table, table[:2], {"a": [table.t()]}) == 160
    assert held_bytes(model, table) == 160
    assert held_bytes(model, torch.zeros(3)) == 172


def test_gradients_are_held_too() -> None:
    model = nn.Linear(4, 10, bias=False)
    model(torch.ones(1, 4)).sum().backward()

    assert held_bytes(model) == 2 * 160


def test_objects_of_others_are_not_looked_into() -> None:
    class Other:
        def __init__(self) -> None:
            self.tensor, self.itself = torch.zeros(4), self

    loop: list[object] = [torch.zeros(2)]
    loop.append(loop)

    assert held_bytes(Other()) == 0
    assert held_bytes(loop) == 8


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_errors_of_memory_are_known(error: BaseException) -> None:
    assert exhausted(error)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 differ"), ValueError("memory")])
def test_other_errors_are_not(error: BaseException) -> None:
    assert exhausted(error) is None


_ALLOCATE_BEYOND = """
import resource
from pathlib import Path
import torch
from biomamba.timing.measurement import exhausted, memory_limit

MIB = 2**20
before = resource.getrlimit(resource.RLIMIT_DATA)
status = Path("/proc/self/status").read_text().splitlines()
held = next(int(line.split()[1]) for line in status if line.startswith("VmData:"))
with memory_limit(1024 * held + 256 * MIB, torch.device("cpu")):
    torch.ones(16 * MIB, dtype=torch.uint8)
    try:
        torch.ones(1024 * MIB, dtype=torch.uint8)
    except RuntimeError as error:
        print(exhausted(error))
print(resource.getrlimit(resource.RLIMIT_DATA) == before)
"""


def test_beyond_the_limit_work_fails_and_does_not_end_the_process() -> None:
    # A process of its own: in one that ran other tests, what malloc kept of them may hold the
    # tensor, and no memory is asked for.
    code = [sys.executable, "-c", _ALLOCATE_BEYOND]
    done = subprocess.run(code, check=True, capture_output=True, text=True)

    error, is_as_before = done.stdout.splitlines()
    assert "memory" in error
    assert is_as_before == "True"


def test_what_nothing_holds_is_given_back() -> None:
    class Loop:
        itself: object

    with quick_collection():
        loop = Loop()
        loop.itself = loop
        found = weakref.ref(loop)
        del loop
        release(CPU)
    assert found() is None
    assert gc.get_freeze_count() == 0
