"""Measure all points that were not measured yet, phase by phase."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from biomamba.timing.clock import Clock
from biomamba.timing.memory import MemoryMeter, exhausted, quick_collection, release
from biomamba.timing.progress import Progress
from biomamba.timing.records import EfficiencyRecord, RecordFile, rates
from biomamba.timing.settings import DECODE, TRAIN, EfficiencySettings, Point
from biomamba.timing.subject import Subject
from biomamba.timing.tasks import ProductTask, Training, make_task
from biomamba.timing.turns import Taken, Task, take_turns

_PEAK = "peak"  # among the tasks of a turn
MakeSubject = Callable[[str], Subject]  # from the phase


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What measurements are made with."""

    settings: EfficiencySettings
    device: torch.device
    clock: Clock
    memory: MemoryMeter
    conditions: Mapping[str, Any]
    provenance: Mapping[str, Any]
    say: Callable[[str], None]


@dataclass
class _Models:
    """The models of one phase, and why others of them could not be built."""

    subjects: dict[str, Subject] = field(default_factory=dict)
    trainings: dict[str, Training] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def measure(bench: Bench, makers: Mapping[str, MakeSubject], file: RecordFile) -> int:
    """Measure what the file lacks, and return how many points there were to measure.

    Both models of a point take turns. A model that runs out of memory at one length is not tried
    at longer ones.
    """
    points = bench.settings.points()
    todo = [p for p in points if any(not file.has(name, p) for name in makers)]
    progress = Progress([point.tokens for point in todo], bench.clock.now)
    if len(todo) < len(points):
        bench.say(f"{len(points) - len(todo)} of {len(points)} points lie in {file.path} already")
    for phase in bench.settings.phases:
        of_phase = [point for point in todo if point.phase == phase]
        if of_phase:
            with quick_collection():
                _measure_phase(bench, makers, of_phase, file, progress)
                release(bench.device)
    return len(todo)


def _measure_phase(
    bench: Bench,
    makers: Mapping[str, MakeSubject],
    points: Sequence[Point],
    file: RecordFile,
    progress: Progress,
) -> None:
    models = _build(bench, makers, points[0].phase)
    for point in points:
        names = [name for name in makers if not file.has(name, point)]
        records = _measure_point(bench, models, names, point, file)
        file.add(records)
        progress.advance(point.tokens)
        bench.say(f"{point_text(records)}; {progress.text()}")


def point_text(records: Sequence[EfficiencyRecord]) -> str:
    """Return what a point took, in a line."""
    point = records[0].point
    told = []
    for record in records:
        seconds, rate = record.median_seconds, record.tokens_per_second
        if seconds is None or rate is None:
            told.append(f"{record.model} out of memory")
        else:
            told.append(f"{record.model} {1_000 * seconds:,.1f} ms, {rate:,.0f} tokens/s")
    return f"{point.phase} {point.batch} x {point.length:,}: {'; '.join(told)}"


def _build(bench: Bench, makers: Mapping[str, MakeSubject], phase: str) -> _Models:
    models = _Models()
    settings = bench.settings
    for name, make in makers.items():
        try:
            subject = make(phase)
            if phase == TRAIN:
                dtype = settings.product_dtype
                models.trainings[name] = Training(subject, settings.precision, dtype)
            models.subjects[name] = subject
        except (RuntimeError, MemoryError) as error:
            models.failures[name] = _reason(error)
    return models


def _measure_point(
    bench: Bench, models: _Models, names: Sequence[str], point: Point, file: RecordFile
) -> list[EfficiencyRecord]:
    settings = bench.settings
    peak = ProductTask(settings.product_size, settings.product_dtype, bench.device)
    tasks: dict[str, Task] = {_PEAK: peak}
    failures = dict(models.failures)
    for name in names:
        shorter = file.shortest_failure(name, point)
        if shorter is not None and shorter < point.length:
            failures[name] = f"not tried: {shorter:,} tokens did not fit into memory"
        elif name not in failures:
            _add_task(tasks, failures, models, name, point, settings)
    taken = take_turns(tasks, settings.repeats, settings.warmup, bench.clock, bench.memory)
    del tasks
    release(bench.device)
    found = {name: taken.get(name) or Taken(failure=failures[name]) for name in names}
    return [
        _record(bench, models.subjects.get(name), name, point, each, taken[_PEAK], peak.operations)
        for name, each in found.items()
    ]


def _add_task(
    tasks: dict[str, Task],
    failures: dict[str, str],
    models: _Models,
    name: str,
    point: Point,
    settings: EfficiencySettings,
) -> None:
    try:
        subject, training = models.subjects[name], models.trainings.get(name)
        tasks[name] = make_task(subject, training, point, settings)
    except (RuntimeError, MemoryError) as error:
        failures[name] = _reason(error)


def _record(
    bench: Bench,
    subject: Subject | None,
    name: str,
    point: Point,
    taken: Taken,
    peak: Taken,
    peak_operations: float,
) -> EfficiencyRecord:
    settings = bench.settings
    operations = subject.operations(point, settings.decode_tokens) if subject else 0.0
    figures = rates(
        point, settings.decode_tokens, taken.seconds, operations, peak.seconds, peak_operations
    )
    return EfficiencyRecord(
        phase=point.phase,
        model=name,
        num_parameters=subject.num_parameters if subject else 0,
        shape=dict(subject.shape) if subject else {},
        batch=point.batch,
        length=point.length,
        precision=settings.precision,
        device=bench.device.type,
        new_tokens=settings.decode_tokens if point.phase == DECODE else None,
        seconds=list(taken.seconds),
        failure=taken.failure,
        operations=operations,
        held_bytes=taken.held_bytes,
        growth_bytes=taken.growth_bytes,
        conditions=bench.conditions,
        provenance=bench.provenance,
        tokens_per_second=figures.tokens_per_second,
        peak_operations_per_second=figures.peak_operations_per_second,
        utilisation=figures.utilisation,
    )


def _reason(error: RuntimeError | MemoryError) -> str:
    reason = exhausted(error)
    if reason is None:
        raise error
    return reason
