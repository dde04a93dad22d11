"""Everything that is planned of a run, and what to change in it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from biomamba.planning.duration import (
    Allowance,
    Disk,
    Duration,
    SlurmRequest,
    main_memory_bytes_of_node,
    plan_disk,
    plan_duration,
    plan_slurm,
)
from biomamba.planning.hardware import Hardware
from biomamba.planning.memory import Memory, fitting_rows, options, plan_memory
from biomamba.planning.settings import Layout, RunSettings
from biomamba.planning.speed import Rate, assumed_rate, operations_per_token


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
