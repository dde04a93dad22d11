"""The plan of a run: options and changes; and what a finished run needed beside it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomamba.planning.duration import (
    Allowance,
    Disk,
    Duration,
    Rate,
    SlurmRequest,
    assumed_rate,
    main_memory_bytes_of_node,
    operations_per_token,
    plan_disk,
    plan_duration,
    plan_slurm,
)
from biomamba.planning.hardware import GIB, Hardware
from biomamba.planning.memory import Layout, Memory, RunSettings, fitting_rows, options, plan_memory
from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import read_run_record

# -------------------------------------------------------------------------------------------------
# Everything that is planned of a run, and what to change in it.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One way to share the model over the ranks.

    Attributes:
        rows: Largest micro_batch_size that fits; None: not even one row does.
        needed_bytes: With that many rows, or with one.
        is_configured: Whether the experiment asks for it.
    """

    layout: Layout
    rows: int | None
    needed_bytes: int
    is_configured: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run needs on some hardware."""

    run: RunSettings
    hardware: Hardware
    allowance: Allowance
    memory: Memory
    rows: int | None
    options: list[Option]
    advice: list[str]
    rate: Rate
    duration: Duration
    disk: Disk
    slurm: SlurmRequest

    @property
    def gpu_hours(self) -> float | None:
        """Hours times devices; those of a CPU for `cpu`."""
        hours = self.duration.hours
        return None if hours is None else hours * self.hardware.world_size

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        run, budget = self.run, self.run.budget
        return {
            "hardware": asdict(self.hardware) | {"world_size": self.hardware.world_size},
            "assumptions": asdict(self.allowance),
            "parameters": {
                "total": run.parameters.total_numel,
                "trained": run.parameters.trained_numel,
            },
            "settings": {
                "strategy": asdict(run.layout),
                "precision": run.precision,
                "backend": run.backend,
                "micro_batch_size": budget.micro_batch_size,
                "seq_len": budget.seq_len,
                "accumulation": budget.accumulation(self.hardware.world_size),
            },
            "memory_per_rank": self.memory.to_dict(),
            "largest_micro_batch_size": self.rows,
            "options": [asdict(option) for option in self.options],
            "advice": self.advice,
            "steps": budget.num_steps,
            "tokens": budget.max_tokens,
            "operations_per_token": operations_per_token(run),
            "rate": asdict(self.rate),
            "duration": asdict(self.duration) | {"hours": self.duration.hours},
            "gpu_hours": self.gpu_hours,
            "disk": asdict(self.disk) | {"run_bytes": self.disk.run_bytes},
            "main_memory_per_node_bytes": main_memory_bytes_of_node(run, self.hardware),
            "slurm": asdict(self.slurm),
        }


def make_plan(
    run: RunSettings,
    hardware: Hardware,
    allowance: Allowance,
    *,
    overrides: Sequence[str] = (),
    measured: Rate | None = None,
    stores_bytes: int | None = None,
) -> Plan:
    """Plan a run.

    Args:
        run: As it is configured.
        hardware: With nothing left open (see Hardware.resolved).
        allowance: What is assumed on top.
        overrides: Of the command line, for the line to submit.
        measured: The rate of a probe; None: an assumed one.
        stores_bytes: Of the token stores, if they are there.

    Raises:
        ConfigError: The rows of a step cannot be dealt out to the ranks.
    """
    run.budget.accumulation(hardware.world_size)
    margin = allowance.memory_margin_ratio
    found = [_option(run, hardware, layout, margin) for layout in _layouts(run, hardware)]
    memory = plan_memory(run, hardware, margin)
    rate = measured or assumed_rate(run, hardware)
    duration = plan_duration(run, rate)
    rows = next(option.rows for option in found if option.is_configured)
    return Plan(
        run=run,
        hardware=hardware,
        allowance=allowance,
        memory=memory,
        rows=rows,
        options=found,
        advice=_advice(run, hardware, memory, found),
        rate=rate,
        duration=duration,
        disk=plan_disk(run, stores_bytes),
        slurm=plan_slurm(run, hardware, duration, allowance, list(overrides)),
    )


def _layouts(run: RunSettings, hardware: Hardware) -> list[Layout]:
    known = options(hardware.world_size)
    return known if run.layout in known else [*known, run.layout]


def _option(run: RunSettings, hardware: Hardware, layout: Layout, margin: float) -> Option:
    other = run.with_layout(layout)
    rows = fitting_rows(other, hardware, margin)
    needed = plan_memory(other.with_rows(rows or 1), hardware, margin).needed
    return Option(layout, rows, needed, layout == run.layout)


def _advice(
    run: RunSettings, hardware: Hardware, memory: Memory, found: Sequence[Option]
) -> list[str]:
    """Say what to change, in the order in which it matters."""
    lines = list(_precision_advice(run, hardware))
    configured = next(option for option in found if option.is_configured)
    best = next((option for option in found if option.rows), None)
    here = run.budget.micro_batch_size
    if memory.fits and (configured.rows or 0) > here:
        lines.append(
            f"fits; data.budget.micro_batch_size={configured.rows} is the largest that does "
            f"(now {here}), and fewer, larger micro-batches use a GPU better"
        )
    elif not memory.fits and configured.rows:
        lines.append(f"does not fit: set data.budget.micro_batch_size={configured.rows}")
    elif not memory.fits:
        lines.append(f"does not fit with {run.layout.text}, whatever the micro-batch")
    if best is None:
        lines.append(
            "nothing fits: take more or larger devices, a smaller model, shorter rows or "
            "objective.segment_tokens"
        )
    elif best is not configured and (
        not memory.fits or found.index(best) < found.index(configured)
    ):
        lines.append(
            f"{best.layout.text} fits with data.budget.micro_batch_size={best.rows}: "
            f"{' '.join(_keys(best.layout, hardware))}"
        )
    return lines


def _precision_advice(run: RunSettings, hardware: Hardware) -> Sequence[str]:
    if run.precision == "bf16-mixed" and not hardware.is_bf16_capable:
        return ["this GPU has no bf16: set trainer.precision=16-mixed"]
    if run.precision == "16-mixed" and hardware.device == "gpu" and hardware.is_bf16_capable:
        return ["this GPU has bf16, which needs no loss scaler: set trainer.precision=bf16-mixed"]
    return []


def _keys(layout: Layout, hardware: Hardware) -> list[str]:
    """Return the keys that choose a layout."""
    node = "gpu_8" if hardware.is_bf16_capable else "v100_8"
    if hardware.device == "cpu":
        node = "cpu_2" if layout.strategy != "single" else "cpu"
    elif layout.strategy == "single":
        node = "gpu_1"
    keys = [f"trainer={node}{'_fsdp' if layout.strategy == 'fsdp' else ''}"]
    keys.append(f"model.activation_checkpointing={str(layout.activation_checkpointing).lower()}")
    if layout.sync_every_micro_batch:
        keys.append("trainer.strategy.sync_every_micro_batch=true")
    return keys


# -------------------------------------------------------------------------------------------------
# What a run did need, read from its folder, beside what was planned.
# -------------------------------------------------------------------------------------------------

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
class PlanComparison:
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


def compare(plan: Mapping[str, Any], actual: Actual) -> list[PlanComparison]:
    """Put the figures of a plan, as Plan.to_dict returns them, beside those of a run."""
    peak = plan["memory_per_rank"]["peak_bytes"]
    if plan["hardware"]["device"] == "cpu":  # resident memory: with Python and libraries
        peak += plan["memory_per_rank"]["reserved_bytes"]
    return [
        PlanComparison("parameters", plan["parameters"]["total"], actual.total_parameters),
        PlanComparison(
            "trained parameters", plan["parameters"]["trained"], actual.trained_parameters
        ),
        PlanComparison("ranks", plan["hardware"]["world_size"], actual.world_size),
        PlanComparison("steps", plan["steps"], actual.steps),
        PlanComparison(
            "tokens per second", plan["rate"]["tokens_per_second"], actual.tokens_per_second
        ),
        PlanComparison("peak memory (GiB)", peak / GIB, actual.peak_memory_gib),
        PlanComparison("hours", plan["duration"]["hours"], actual.hours),
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
