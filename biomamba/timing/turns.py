"""Measure tasks in turn, so that a machine that slows down slows all of them down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from biomamba.timing.clock import Clock
from biomamba.timing.memory import MemoryMeter, exhausted


class Task(Protocol):
    """Work that can be done again and again."""

    def prepare(self) -> None:
        """Get ready for the next run; is not measured."""
        ...

    def run(self) -> None:
        """Do the work."""
        ...

    def held_bytes(self) -> int:
        """Count the bytes that lie in memory between two runs."""
        ...


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a task took.

    Attributes:
        seconds: Of every repeat; none if memory ran out.
        held_bytes: Weights, states and caches, between two runs.
        growth_bytes: What came on top at the most; None if this system does not tell.
        failure: The words of the error if memory ran out.
    """

    seconds: Sequence[float] = ()
    held_bytes: int | None = None
    growth_bytes: int | None = None
    failure: str | None = None


def take_turns(
    tasks: Mapping[str, Task], repeats: int, warmup: int, clock: Clock, memory: MemoryMeter
) -> dict[str, Taken]:
    """Run every task `warmup` times, and then all of them in turn, `repeats` times.

    A task that runs out of memory takes no further part.
    """
    failures: dict[str, str] = {}
    growth: dict[str, int | None] = {}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for name, task in tasks.items():
        failure = _warm_up(task, warmup, memory, growth, name)
        if failure is not None:
            failures[name] = failure
    for _ in range(repeats):
        for name, task in tasks.items():
            if name in failures:
                continue
            try:
                seconds[name].append(_seconds(task, clock))
            except (RuntimeError, MemoryError) as error:
                failures[name] = _reason(error)
    return {
        name: Taken(failure=failures[name])
        if name in failures
        else Taken(seconds=seconds[name], held_bytes=task.held_bytes(), growth_bytes=growth[name])
        for name, task in tasks.items()
    }


def _warm_up(
    task: Task, warmup: int, memory: MemoryMeter, growth: dict[str, int | None], name: str
) -> str | None:
    try:
        for _ in range(warmup):
            task.prepare()
            growth[name] = memory.growth(task.run)
    except (RuntimeError, MemoryError) as error:
        return _reason(error)
    return None


def _seconds(task: Task, clock: Clock) -> float:
    task.prepare()
    begin = clock.now()
    task.run()
    return clock.now() - begin


def _reason(error: RuntimeError | MemoryError) -> str:
    """Return the words of an error of memory; any other one is a defect and goes on."""
    reason = exhausted(error)
    if reason is None:
        raise error
    return reason
