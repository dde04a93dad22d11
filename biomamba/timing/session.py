"""A session of speed measurements: training steps, prefill and decoding, point by point."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from biomamba.model.loss import linear_cross_entropy
from biomamba.timing.candidates import Subject
from biomamba.timing.measurement import (
    Clock,
    MemoryMeter,
    Progress,
    Taken,
    Task,
    exhausted,
    held_bytes,
    quick_collection,
    release,
    take_turns,
)
from biomamba.timing.records import (
    DECODE,
    TRAIN,
    EfficiencyRecord,
    EfficiencySettings,
    Point,
    RecordFile,
    rates,
)
from biomamba.training.optimizer import AdamW
from biomamba.training.step_guard import clip, global_norm

# -------------------------------------------------------------------------------------------------
# The three kinds of work that are measured: a step of training, a prompt, tokens after it.
# -------------------------------------------------------------------------------------------------

_OPTIMIZER = AdamW(lr=1e-5, weight_decay=0.1)
_MAX_GRAD_NORM = 1.0
_FIRST_STEP_TOKENS = 16  # the step in which the optimizer takes its memory


class Training:
    """A model with its optimizer, in steps of one batch, as biomamba.train takes them.

    Head, loss, clipping and optimizer are the same for every model.
    """

    def __init__(self, subject: Subject, precision: str, product_dtype: torch.dtype) -> None:
        self._subject, self._dtype = subject, product_dtype
        self._optimizer = _OPTIMIZER.build(subject.module)
        self._device = subject.head_weight.device.type
        self._scaler = torch.amp.GradScaler(self._device, enabled=precision == "16-mixed")
        subject.module.train()
        self.step(row_of(subject, 1, _FIRST_STEP_TOKENS))

    def step(self, ids: Tensor) -> None:
        """Take one step on rows of ids (rows, length + 1)."""
        is_narrow = self._dtype != torch.float32
        with torch.autocast(self._device, dtype=self._dtype, enabled=is_narrow):
            hidden = self._subject.hidden(ids[:, :-1]).flatten(0, 1)
            targets = ids[:, 1:].flatten()
            nll_sum = linear_cross_entropy(hidden, self._subject.head_weight, targets)
        loss: Tensor = self._scaler.scale(nll_sum / len(targets))
        loss.backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._subject.module.parameters() if p.grad is not None]
        clip(gradients, global_norm(gradients, lambda part: part), _MAX_GRAD_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def held_bytes(self) -> int:
        """Count the bytes of weights and of the state of the optimizer."""
        return held_bytes(self._subject.module, dict(self._optimizer.state))


class TrainTask:
    """One step on rows of random ids."""

    def __init__(self, training: Training, ids: Tensor) -> None:
        self._training, self._ids = training, ids

    def prepare(self) -> None:
        """Do nothing: a step leaves what the next one needs."""

    def run(self) -> None:
        """Take the step."""
        self._training.step(self._ids)

    def held_bytes(self) -> int:
        """Count the bytes of weights and of the state of the optimizer."""
        return self._training.held_bytes()


class PrefillTask:
    """From prompts to the first new id of each."""

    def __init__(self, subject: Subject, prompts: list[list[int]], new_tokens: int) -> None:
        self._subject, self._prompts, self._new_tokens = subject, prompts, new_tokens

    def prepare(self) -> None:
        """Do nothing: nothing is kept."""

    @torch.no_grad()
    def run(self) -> None:
        """Read the prompts, and wait for the ids as a reader would."""
        self._subject.first_ids(self._prompts, self._new_tokens).tolist()

    def held_bytes(self) -> int:
        """Count the bytes of weights."""
        return held_bytes(self._subject.module)


class DecodeTask:
    """New tokens after prompts that were read."""

    @torch.no_grad()
    def __init__(self, subject: Subject, prompts: list[list[int]], new_tokens: int) -> None:
        self._first_ids, self._rows = subject.begin(prompts, new_tokens)
        self._new_tokens = new_tokens

    def prepare(self) -> None:
        """Go back to the end of the prompts."""
        self._rows.reset()

    @torch.no_grad()
    def run(self) -> None:
        """Write the tokens, each when the one before is known."""
        ids = self._first_ids
        for _ in range(self._new_tokens):
            ids = self._rows.step(ids)
        ids.tolist()

    def held_bytes(self) -> int:
        """Count the bytes of weights and of what is kept of the prompts."""
        return self._rows.held_bytes()


def make_task(
    subject: Subject, training: Training | None, point: Point, settings: EfficiencySettings
) -> Task:
    """Return the work of a point; `training` is needed for that of the phase `train`."""
    if point.phase == TRAIN:
        assert training is not None
        return TrainTask(training, row_of(subject, point.batch, point.length))
    prompts: list[list[int]] = row_of(subject, point.batch, point.length)[:, :-1].tolist()
    kind = DecodeTask if point.phase == DECODE else PrefillTask
    return kind(subject, prompts, settings.decode_tokens)


def row_of(subject: Subject, rows: int, length: int) -> Tensor:
    """Return random ids (rows, length + 1), for every subject the same."""
    weight = subject.head_weight
    draw = torch.Generator().manual_seed(length)
    return torch.randint(len(weight), (rows, length + 1), generator=draw).to(weight.device)


class ProductTask:
    """Products of square matrices: what the device can do at best."""

    _TIMES = 4

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._a, self._b = torch.randn(2, size, size, device=device).to(dtype)
        self.operations = 2.0 * size**3 * self._TIMES

    def prepare(self) -> None:
        """Do nothing."""

    @torch.no_grad()
    def run(self) -> None:
        """Multiply them, as fast as they come."""
        for _ in range(self._TIMES):
            torch.nn.functional.linear(self._a, self._b)

    def held_bytes(self) -> int:
        """Count the bytes of both matrices."""
        return held_bytes([self._a, self._b])


# -------------------------------------------------------------------------------------------------
# Measure all points that were not measured yet, phase by phase.
# -------------------------------------------------------------------------------------------------

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
        bench.say(f"{len(points) - len(todo)} of {len(points)} points are in {file.path} already")
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
