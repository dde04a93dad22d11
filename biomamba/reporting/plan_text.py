"""A plan, and a plan beside a run, as text."""

from collections.abc import Sequence

from biomamba.planning.comparison import Comparison
from biomamba.planning.hardware import GIB
from biomamba.planning.run_plan import Option, Plan
from biomamba.reporting.tables import markdown_table


def plan_text(plan: Plan) -> str:
    """Return what a run needs: whether it fits, how long it takes, what to type."""
    parts = [_head(plan), _memory(plan), _options(plan), _advice(plan), _time(plan), _disk(plan)]
    return "\n\n".join([*parts, f"submit: {plan.slurm.command}"])


def comparison_text(rows: Sequence[Comparison]) -> str:
    """Return figures planned and actual, with their ratio."""
    cells = [
        [row.name, _number(row.planned), _number(row.actual), _ratio(row.ratio)] for row in rows
    ]
    return markdown_table(["figure", "planned", "actual", "actual / planned"], cells)


def _head(plan: Plan) -> str:
    run, hardware = plan.run, plan.hardware
    budget = run.budget
    devices = f"{hardware.world_size} x {hardware.name or hardware.device}"
    return "\n".join(
        [
            f"model: {run.parameters.total_numel:,} parameters, "
            f"{run.parameters.trained_numel:,} of them trained",
            f"on: {devices} of {hardware.memory_gib:g} GiB, {run.layout.text}, {run.precision}, "
            f"backend {run.backend}",
            f"run: {budget.num_steps:,} steps of {budget.tokens_per_step:,} tokens (positions, "
            f"padding included) = {budget.max_tokens:,}; "
            f"{budget.accumulation(hardware.world_size)} micro-batches of "
            f"{budget.micro_batch_size} x {budget.seq_len} on each rank and step",
        ]
    )


def _memory(plan: Plan) -> str:
    memory = plan.memory
    rows = [[name, _gib(size)] for name, size in memory.components.items()]
    ratio = plan.allowance.memory_margin_ratio
    rows.append(["sum: peak of the allocator", _gib(memory.peak)])
    rows.append([f"margin for fragmentation ({ratio:.0%}, assumed)", _gib(memory.margin)])
    rows.append(["context and libraries (assumed)", _gib(memory.reserved)])
    rows.append(["needed", _gib(memory.needed)])
    rows.append(["there", _gib(memory.available)])
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    table = markdown_table(["memory of one rank", "GiB"], rows)
    note = ""
    if plan.run.backend == "fused":
        note = "\nWhat the fused kernels keep is read from their code, not measured."
    return f"{table}\n\n{verdict}; largest micro_batch_size that does: {plan.rows or 'none'}{note}"


def _options(plan: Plan) -> str:
    header = ["strategy", "largest micro_batch_size", "GiB with it (or with one row)", "asked for"]
    return markdown_table(header, [_option(option) for option in plan.options])


def _option(option: Option) -> list[str]:
    rows = "none fits" if option.rows is None else str(option.rows)
    asked = "yes" if option.is_configured else ""
    return [option.layout.text, rows, _gib(option.needed_bytes), asked]


def _advice(plan: Plan) -> str:
    return "\n".join(f"- {line}" for line in plan.advice) or "- nothing to change"


def _time(plan: Plan) -> str:
    rate, duration, slurm = plan.rate, plan.duration, plan.slurm
    if rate.tokens_per_second is None or duration.hours is None:
        return f"time: {rate.kind}: {rate.source}"
    spread = (
        "" if rate.low is None else f" (slowest step {rate.low:,.0f}, fastest {rate.high:,.0f})"
    )
    validation = "validation not counted: its size is not known"
    if duration.validation_hours is not None:
        validation = (
            f"{duration.num_validations} validations at most {duration.validation_hours:.2f} h"
        )
    return "\n".join(
        [
            f"rate: {rate.tokens_per_second:,.0f} tokens/s{spread}",
            f"  {rate.kind}: {rate.source}",
            f"time: {duration.hours:.2f} h = {plan.gpu_hours:.1f} device hours ({validation})",
            f"request: --time={slurm.time}, {_times(slurm.num_requeues)} back in the queue at a "
            f"limit of {plan.allowance.limit_hours:g} h "
            f"(margin {plan.allowance.time_margin_ratio:.0%}, "
            f"{plan.allowance.start_minutes:g} minutes per start: both assumed)",
        ]
    )


def _times(number: int | None) -> str:
    return {None: "not known how often", 0: "never", 1: "once"}.get(number, f"{number} times")


def _disk(plan: Plan) -> str:
    disk = plan.disk
    stores = (
        "" if disk.stores_are_measured else " (not there: for the tokens of the run, seen once)"
    )
    return (
        f"disk: {_gb(disk.run_bytes)} GB in the run folder "
        f"({disk.num_checkpoints} checkpoints of {_gb(disk.checkpoint_bytes)} GB while one is "
        f"written, models {_gb(disk.model_bytes)} GB); token stores "
        f"{_gb(disk.stores_bytes)} GB{stores}"
    )


def _gib(size: int) -> str:
    return _short(size / GIB)


def _gb(size: int) -> str:
    return _short(size / 1e9)


def _short(value: float) -> str:
    """Return two decimals, or two digits of what is smaller."""
    return f"{value:.2f}" if value >= 0.1 or not value else f"{value:.2g}"


def _number(value: float | None) -> str:
    if value is None:
        return "not known"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:,.3g}"
        if value < 1e3
        else f"{value:,.0f}"
    )


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
