"""What a run did need, read from its folder, beside what was planned."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomamba.planning.hardware import GIB
from biomamba.runtime.errors import DataError
from biomamba.runtime.record_shapes import read_run_record

_RATE, _PEAK = "throughput/tokens_per_second", "system/peak_memory_gib"
_HOUR = 3600


@dataclass(frozen=True)
class Actual:
    """Figures of a run; None: it has not written them.

    Attributes:
        tokens_per_second: Median over the windows that the throughput callback logged.
        peak_memory_gib: Largest one; on a CPU resident memory with Python and its libraries.
        hours: From the first to the last point of the curves, start by start: without the time
            before the first point of a start, and without the wait in a queue.
    """

    steps: int | None
    total_parameters: int | None
    trained_parameters: int | None
    tokens_per_second: float | None
    peak_memory_gib: float | None
    hours: float | None
    world_size: int | None


@dataclass(frozen=True)
class Comparison:
    """One figure, planned and actual."""

    name: str
    planned: float | None
    actual: float | None

    @property
    def ratio(self) -> float | None:
        """Actual over planned; None where one of them is missing or nothing was planned."""
        if self.actual is None or not self.planned:
            return None
        return self.actual / self.planned


def read_actual(run_dir: Path) -> Actual:
    """Read run.json and the curves of a run.

    Raises:
        DataError: There is no run.json, or it cannot be read.
    """
    path = run_dir / "run.json"
    try:
        record = read_run_record(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run=... must name the folder of a run") from None
    curves = _Curves(run_dir)
    rates, peaks = curves.values(_RATE), curves.values(_PEAK)
    starts = record.get("starts") or [{}]
    parameters = record.get("parameters") or {}
    return Actual(
        steps=curves.last_step(),
        total_parameters=parameters.get("total"),
        trained_parameters=parameters.get("trained"),
        tokens_per_second=statistics.median(rates) if rates else None,
        peak_memory_gib=max(peaks) if peaks else None,
        hours=curves.seconds() / _HOUR if curves.seconds() else None,
        world_size=starts[-1].get("world_size"),
    )


def compare(plan: Mapping[str, Any], actual: Actual) -> list[Comparison]:
    """Put the figures of a plan, as Plan.to_dict returns them, beside those of a run."""
    peak = plan["memory_per_rank"]["peak_bytes"]
    if plan["hardware"]["device"] == "cpu":  # resident memory: with Python and libraries
        peak += plan["memory_per_rank"]["reserved_bytes"]
    return [
        Comparison("parameters", plan["parameters"]["total"], actual.total_parameters),
        Comparison("trained parameters", plan["parameters"]["trained"], actual.trained_parameters),
        Comparison("ranks", plan["hardware"]["world_size"], actual.world_size),
        Comparison("steps", plan["steps"], actual.steps),
        Comparison(
            "tokens per second", plan["rate"]["tokens_per_second"], actual.tokens_per_second
        ),
        Comparison("peak memory (GiB)", peak / GIB, actual.peak_memory_gib),
        Comparison("hours", plan["duration"]["hours"], actual.hours),
    ]


class _Curves:
    """The event files of a run, one per start."""

    def __init__(self, run_dir: Path) -> None:
        paths = sorted(run_dir.rglob("events.out.tfevents.*"))
        self._starts = [EventAccumulator(str(path), {"scalars": 0}) for path in paths]
        for start in self._starts:
            start.Reload()

    def values(self, tag: str) -> list[float]:
        """Return all points of a curve."""
        return [point.value for start in self._starts for point in self._points(start, tag)]

    def last_step(self) -> int | None:
        """Return the step of the last point of the rate."""
        steps = [p.step for start in self._starts for p in self._points(start, "train/loss")]
        return max(steps, default=None)

    def seconds(self) -> float:
        """Return the time between the first and the last point of each start."""
        total = 0.0
        for start in self._starts:
            tags = start.Tags()["scalars"]
            times = [point.wall_time for tag in tags for point in start.Scalars(tag)]
            total += max(times, default=0.0) - min(times, default=0.0)
        return total

    def _points(self, start: EventAccumulator, tag: str) -> Any:
        return start.Scalars(tag) if tag in start.Tags()["scalars"] else []
