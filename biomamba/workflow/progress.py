"""How far a chain is, and how long the rest will take."""

from collections.abc import Iterable, Mapping, Sequence

from biomamba.workflow.record import Record
from biomamba.workflow.step import Step


def expected_seconds(
    step: Step, steps: Iterable[Step], records: Mapping[str, Record]
) -> float | None:
    """Return how long a step will take: as its twins took on average, or as it is told, if so."""
    twins = [
        records[other.name].seconds
        for other in steps
        if other.template == step.template
        and other.name in records
        and records[other.name].is_finished
    ]
    if twins:
        return sum(twins) / len(twins)
    return None if step.minutes is None else 60 * step.minutes


def remaining_seconds(
    steps: Sequence[Step],
    records: Mapping[str, Record],
    running: Mapping[str, float],
    jobs: int,
) -> float | None:
    """Return how long the steps that are not finished will take; None if it is not known of one.

    Args:
        steps: All steps, each behind those it builds upon.
        records: Of the steps that have ended.
        running: Seconds since the start of those that run.
        jobs: How many run at the same time.
    """
    left: dict[str, float] = {}
    ends: dict[str, float] = {}
    for step in steps:
        record = records.get(step.name)
        is_open = record is None or not record.is_finished
        whole = expected_seconds(step, steps, records) if is_open else 0.0
        if whole is None:
            return None
        left[step.name] = max(0.0, whole - running.get(step.name, 0.0))
        ends[step.name] = left[step.name] + max((ends[name] for name in step.after), default=0.0)
    return max(sum(left.values()) / jobs, *ends.values())


def duration(seconds: float) -> str:
    """Return a time in words."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def position(step: Step, steps: Sequence[Step]) -> str:
    """Return which step of how many this is."""
    return f"step {steps.index(step) + 1} of {len(steps)} {step.name}"


def rough(seconds: float | None) -> str:
    """Return an estimate in words, no more exact than it is."""
    if seconds is None:
        return "unknown"
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} min" if minutes < 120 else f"about {minutes / 60:.0f} h"
