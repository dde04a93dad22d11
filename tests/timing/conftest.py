"""A clock that only work moves, and records with times of a known curve."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from biomamba.model.config import Mamba2Config
from biomamba.timing.records import EfficiencyRecord, Point, rates

ORIGIN = {
    "argv": [],
    "config_sha256": "c" * 64,
    "git": None,
    "machine": {"cpu": "CPU", "num_cores": 2, "gpus": []},
    "versions": {"torch": "1"},
}


class Operations(TorchDispatchMode):
    """Notes every operation of torch with the shapes that it works on."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = tuple(tuple(a.shape) for a in args if isinstance(a, torch.Tensor))
        self.found.append((str(func), shapes))
        return func(*args, **(kwargs or {}))


class WorkClock:
    """Seconds pass by work alone."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


class NoMeter:
    """Every piece of work takes a hundred bytes."""

    def growth(self, work: Callable[[], object]) -> int:
        work()
        return 100


class TimedTask:
    """Takes some seconds of a clock, and fails at the n-th run if it is told to."""

    def __init__(self, clock: WorkClock, seconds: float, fails_at: int | None = None) -> None:
        self.clock, self.seconds, self.fails_at = clock, seconds, fails_at
        self.num_runs = self.num_prepared = 0

    def prepare(self) -> None:
        self.num_prepared += 1
        self.clock.seconds += 1_000.0  # must not count

    def run(self) -> None:
        self.num_runs += 1
        if self.num_runs == self.fails_at:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 10 bytes")
        self.clock.seconds += self.seconds

    def held_bytes(self) -> int:
        return 7


@pytest.fixture
def operations() -> type[Operations]:
    return Operations


@pytest.fixture
def clock() -> WorkClock:
    return WorkClock()


@pytest.fixture
def meter() -> NoMeter:
    return NoMeter()


@pytest.fixture
def timed_task(clock: WorkClock) -> Callable[..., TimedTask]:
    def make(seconds: float, fails_at: int | None = None) -> TimedTask:
        return TimedTask(clock, seconds, fails_at)

    return make


@pytest.fixture
def tiny() -> Mamba2Config:
    return Mamba2Config(d_model=32, n_layer=4, vocab_size=61, d_state=16, headdim=16)


@pytest.fixture
def record() -> Callable[..., EfficiencyRecord]:
    """Return record(phase, length, seconds, **changes)."""

    def make(
        phase: str = "train", length: int = 512, seconds: Sequence[float] = (1.0,), **changes: Any
    ) -> EfficiencyRecord:
        point = Point(phase, 1, length)
        figures = rates(point, 4, seconds, 1e9, [0.5], 1e9)
        values: dict[str, Any] = {
            "phase": phase,
            "model": "mamba2",
            "num_parameters": 1_000,
            "shape": {"layer": "Mamba2", "backend": "chunked"},
            "batch": 1,
            "length": length,
            "precision": "32-true",
            "device": "cpu",
            "new_tokens": 4 if phase == "decode" else None,
            "seconds": list(seconds),
            "failure": None,
            "operations": 1e9,
            "held_bytes": 1_000,
            "growth_bytes": 500,
            "conditions": {"repeats": 3},
            "provenance": ORIGIN,
            **vars(figures),
        }
        return EfficiencyRecord(**{**values, **changes})

    return make
