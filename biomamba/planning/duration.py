"""Throughput, hours and disk space of a run, and the SLURM request for it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from biomamba.model.ssd import scan_operations
from biomamba.planning.hardware import GIB, Hardware
from biomamba.planning.memory import Memory, RunSettings, adamw_bytes, float32_bytes
from biomamba.runtime.numbers import check_number

# -------------------------------------------------------------------------------------------------
# How many tokens a second a run makes: measured by a probe, or assumed and called so.
#
# A token is a position of a row, padding included, as in the budget.
# -------------------------------------------------------------------------------------------------

MEASURED, ASSUMED, UNKNOWN = "measured", "assumed", "unknown"
_TRAINING, _AGAIN = 3, 1  # forward and twice as much backward; forward again where checkpointed


@dataclass(frozen=True)
class Rate:
    """Tokens per second of all ranks.

    Attributes:
        kind: `measured`, `assumed` or `unknown`.
        source: Where the number comes from, in words.
        tokens_per_second: None if unknown.
        low: Slowest step of a probe; None if nothing was measured.
        high: Fastest step of a probe.
    """

    kind: str
    source: str
    tokens_per_second: float | None
    low: float | None = None
    high: float | None = None


def operations_per_token(run: RunSettings) -> int:
    """Count the operations of a training step per position: products with weights, and the scan.

    A product with a matrix of n numbers takes 2 n forward and 4 n backward. A head tied to the
    embedding counts once; looking up an embedding costs nothing.
    """
    config = run.model
    table = config.padded_vocab_size * config.d_model
    blocks = run.parameters.total_numel - table * (1 if config.tie_embeddings else 2)
    forward = 2 * blocks + config.n_layer * scan_operations(config, run.micro_batch().chunk)
    again = _AGAIN if run.layout.activation_checkpointing else 0
    return (_TRAINING + again) * forward + _TRAINING * 2 * table


def assumed_rate(run: RunSettings, hardware: Hardware) -> Rate:
    """Return peak times assumed utilization over operations; no rate where either is not known."""
    peak = hardware.peak_tflops.get(run.precision)
    part = hardware.assumed_utilisation.get(run.backend)
    if peak is None or part is None:
        lacking = f"peak in {run.precision}" if peak is None else f"utilization of {run.backend}"
        return Rate(UNKNOWN, f"no {lacking} is known of this hardware; probe=true measures", None)
    rate = hardware.world_size * peak * 1e12 * part / operations_per_token(run)
    source = (
        f"ASSUMPTION, nothing measured: {part:.0%} of the {peak:g} TFLOP/s in {run.precision} that "
        f"the maker states, on {hardware.world_size} devices with backend={run.backend}"
    )
    return Rate(ASSUMED, source, rate)


def measured_rate(tokens: int, seconds: Sequence[float], where: str) -> Rate:
    """Return the rate of the median step of a probe, with those of its slowest and fastest step.

    Raises:
        ValueError: There are no steps.
    """
    if not seconds:
        raise ValueError("a rate needs at least one step")
    return Rate(
        MEASURED,
        f"{len(seconds)} training steps on {where}; random weights and documents, no waiting for "
        "data",
        tokens / statistics.median(seconds),
        tokens / max(seconds),
        tokens / min(seconds),
    )


# -------------------------------------------------------------------------------------------------
# Hours of a run, what it puts on disk, and what to ask SLURM for.
# -------------------------------------------------------------------------------------------------

_FORWARD_PART = 1 / 3
_HOUR = 3600
# Assumed for Python, torch and Lightning in each process, and of the job script by default.
_PROCESS_GIB, _SCRIPT_GIB = 2, 120
_SCRIPT_RANKS = 8


@dataclass(frozen=True)
class Allowance:
    """What is assumed on top of the steps.

    Attributes:
        memory_margin_ratio: Of memory, for fragmentation.
        time_margin_ratio: Of hours, for slower nodes, saves and waiting for data.
        start_minutes: Of every start of the job, until its first step.
        limit_hours: Longest job that the cluster allows.
    """

    memory_margin_ratio: float = 0.1
    time_margin_ratio: float = 0.2
    start_minutes: float = 10.0
    limit_hours: float = 24.0

    def __post_init__(self) -> None:
        for key in ("memory_margin_ratio", "time_margin_ratio", "start_minutes"):
            check_number(key, getattr(self, key), at_least=0)
        check_number("limit_hours", self.limit_hours, above=0)
        if self.limit_hours * 60 <= self.start_minutes:
            raise ValueError(
                f"limit_hours must be longer than start_minutes={self.start_minutes}, "
                f"got {self.limit_hours}"
            )


@dataclass(frozen=True)
class Duration:
    """Hours of a run without its margin; None where no rate is known."""

    training_hours: float | None
    validation_hours: float | None
    num_validations: int | None

    @property
    def hours(self) -> float | None:
        """Hours of training and validation."""
        if self.training_hours is None:
            return None
        return self.training_hours + (self.validation_hours or 0.0)


def plan_duration(run: RunSettings, rate: Rate) -> Duration:
    """Turn tokens into hours; a validated position costs a third of a trained one."""
    count = None
    if run.val_every_steps is not None:
        count = 1 + math.ceil(run.budget.num_steps / run.val_every_steps)  # one before the first
    if rate.tokens_per_second is None:
        return Duration(None, None, count)
    per_hour = rate.tokens_per_second * _HOUR
    validation = None
    if count is not None and run.val_positions is not None:
        validation = count * run.val_positions * _FORWARD_PART / per_hour
    return Duration(run.budget.max_tokens / per_hour, validation, count)


@dataclass(frozen=True)
class Disk:
    """Bytes that a run leaves or needs for a while, and the stores that it reads.

    Attributes:
        num_checkpoints: At most at one time, the one that is being written included.
        stores_are_measured: Else the stores are not there, and it is 2 (4) bytes for each token
            of the run if none of them is seen twice.
    """

    checkpoint_bytes: int
    num_checkpoints: int
    model_bytes: int
    stores_bytes: int
    stores_are_measured: bool

    @property
    def run_bytes(self) -> int:
        """Bytes of the run folder at its largest, without ledger and curves."""
        return self.checkpoint_bytes * self.num_checkpoints + self.model_bytes


def plan_disk(run: RunSettings, measured_stores: int | None) -> Disk:
    """Add up checkpoints and models; ledger and curves are small beside them."""
    parameters, trained = run.parameters.all, run.parameters.trained
    models = float32_bytes(parameters) * (2 if run.ema else 1)
    kept = 0
    if run.keep_last:
        steps = run.budget.num_steps
        kept = run.keep_last + 1 + (steps // run.keep_every_steps if run.keep_every_steps else 0)
    width = 2 if run.model.vocab_size <= 2**16 else 4
    return Disk(
        checkpoint_bytes=models + adamw_bytes(trained),
        num_checkpoints=kept,
        model_bytes=models,
        stores_bytes=measured_stores or run.budget.max_tokens * width,
        stores_are_measured=measured_stores is not None,
    )


@dataclass(frozen=True)
class SlurmRequest:
    """What to submit.

    Attributes:
        time: HH:MM:SS of one job; None if no rate is known.
        num_requeues: How often the job goes back into the queue at that time.
        options: Of sbatch, where the head of the script is not enough.
        command: The line to type.
    """

    script: str
    time: str | None
    num_requeues: int | None
    options: list[str] = field(default_factory=list)
    command: str = ""


def plan_slurm(
    run: RunSettings,
    hardware: Hardware,
    duration: Duration,
    allowance: Allowance,
    overrides: list[str],
) -> SlurmRequest:
    """Ask for the hours with their margin, in as many jobs as the limit of the cluster makes."""
    time, requeues = None, None
    if duration.hours is not None:
        start = allowance.start_minutes / 60
        hours = duration.hours * (1 + allowance.time_margin_ratio)
        num_starts = max(1, math.ceil(hours / (allowance.limit_hours - start)))
        time = _clock(min(allowance.limit_hours, hours + start))
        requeues = num_starts - 1
    options = [] if time is None else [f"--time={time}"]
    if hardware.num_nodes > 1:
        options.append(f"--nodes={hardware.num_nodes}")
    ranks = hardware.devices_per_node
    if ranks != _SCRIPT_RANKS:
        options.append(f"--ntasks-per-node={ranks}")
    gres = (
        "none"
        if hardware.device == "cpu"
        else ":".join(["gpu", *([hardware.gres] if hardware.gres else []), str(ranks)])
    )
    if gres != "gpu:v100:8":
        options.append(f"--gres={gres}")
    needed = main_memory_bytes_of_node(run, hardware) / GIB
    if needed > _SCRIPT_GIB:
        options.append(f"--mem={math.ceil(needed)}G")
    script = "slurm/train.sbatch"
    command = " ".join(["sbatch", *options, script, *overrides])
    return SlurmRequest(script, time, requeues, options, command)


def main_memory_bytes_of_node(run: RunSettings, hardware: Hardware) -> int:
    """Bound the main memory of a node: every rank builds the model there before it is moved.

    While shards are saved, rank zero holds the whole checkpoint.
    """
    ranks = hardware.devices_per_node
    weights = float32_bytes(run.parameters.all)
    saving = 0
    if run.layout.strategy == "fsdp":
        saving = plan_disk(run, None).checkpoint_bytes
    return ranks * _PROCESS_GIB * GIB + max(ranks * weights, saving)


def is_tight(memory: Memory) -> bool:
    """Say whether only the margin for fragmentation keeps the run from fitting."""
    return not memory.fits and memory.peak + memory.reserved <= memory.available


def _clock(hours: float) -> str:
    minutes = max(1, math.ceil(hours * 60))
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"
