"""Plain-text output of the ledger and of plans."""

from collections.abc import Mapping, Sequence

from biomamba.data.ledger import Ledger, LedgerComparison, Sighting, SourceTotals
from biomamba.data.store.reader import StoredDocument
from biomamba.planning.hardware import GIB
from biomamba.planning.plan import Option, Plan, PlanComparison
from biomamba.reporting.tables import markdown_table

# -------------------------------------------------------------------------------------------------
# The answers of a ledger as text.
# -------------------------------------------------------------------------------------------------

_MAX_REPEATS = 8


def coverage(ledger: Ledger) -> str:
    """Say which steps the ledger records, and which it does not."""
    last = ledger.end_step - 1
    lines = [f"{ledger.folder}: {ledger.num_steps:,} steps recorded, the last is step {last:,}"]
    lines += [f"steps {first:,} to {end - 1:,} are NOT recorded" for first, end in ledger.gaps]
    if ledger.num_unfinished_steps:
        lines.append(
            f"{ledger.num_unfinished_steps:,} further steps were not written by all ranks and "
            "are left out"
        )
    return "\n".join(lines)


def summary(found: Mapping[str, SourceTotals], epoch_tokens: Mapping[str, int]) -> str:
    """Return tokens, share, epochs and repetition of each source; epochs where they are known."""
    total = max(1, sum(source.tokens for source in found.values()))
    header = ["source", "tokens", "share", "epochs", "documents", "times started: documents"]
    rows = [
        [
            name,
            f"{source.tokens:,}",
            f"{source.tokens / total:.2%}",
            f"{source.tokens / epoch_tokens[name]:.3f}" if epoch_tokens.get(name) else "-",
            f"{source.documents:,}",
            _repeats(source.repeats),
        ]
        for name, source in found.items()
    ]
    return markdown_table(header, rows)


def sighting_table(found: Sequence[Sighting]) -> str:
    """Return one line per time that a piece of a document was trained on."""
    header = ["step", "source", "epoch", "tokens", "of its tokens"]
    rows = [
        [
            f"{sighting.step:,}",
            sighting.source,
            str(sighting.epoch),
            f"{sighting.tokens:,}",
            f"{sighting.start:,} to {sighting.start + sighting.tokens - 1:,}",
        ]
        for sighting in found
    ]
    return markdown_table(header, rows)


def verdict(source: str, found: Sequence[Sighting], stored: StoredDocument | str | None) -> str:
    """Say in one line whether a source trained on a document, and if not, why.

    `stored` is where its stores hold the document, None if they do not, or why that is not known.
    """
    if found:
        epochs = max(sighting.epoch for sighting in found) + 1
        covered = len(set[int]().union(*(_span(sighting) for sighting in found)))
        of_all = f" of {stored.tokens:,}" if isinstance(stored, StoredDocument) else ""
        steps = len({sighting.step for sighting in found})
        return (
            f"{source}: TRAINED ON in {steps:,} step(s), {epochs} time(s); {covered:,}{of_all} "
            f"tokens, {sum(s.tokens for s in found):,} with repetition"
        )
    not_met = f"{source}: not in the recorded steps"
    if isinstance(stored, str):
        return f"{not_met}; whether it is in the corpus is not known: {stored}"
    if stored is None:
        return f"{not_met}; not in the corpus: no split of its stores holds it"
    if stored.split == "train":
        return f"{not_met}; not seen so far, it is in the train split of {stored.folder}"
    return f"{not_met}; HELD OUT in the {stored.split} split of {stored.folder}"


def comparison(
    first: str, second: str, found: LedgerComparison, *, last_steps: tuple[int, int]
) -> str:
    """Say whether two runs saw the same, and what each of them alone has seen."""
    if found.first_difference is None:
        order = f"the {found.num_compared_steps:,} steps that both record are the same"
    else:
        order = f"the first step that differs is {found.first_difference:,}"
    if last_steps[0] != last_steps[1]:
        longer = first if last_steps[0] > last_steps[1] else second
        order += f"; {longer} has {abs(last_steps[0] - last_steps[1]):,} steps more"
    header = ["source", "seen by both", f"only {first}", f"only {second}", "shared"]
    rows = [
        [
            name,
            f"{overlap.both:,}",
            f"{overlap.only_first:,}",
            f"{overlap.only_second:,}",
            f"{overlap.shared_ratio:.2%}",
        ]
        for name, overlap in found.overlaps.items()
    ]
    return f"{order}\n\nDifferent documents:\n\n{markdown_table(header, rows)}"


def _span(sighting: Sighting) -> range:
    return range(sighting.start, sighting.start + sighting.tokens)


def _repeats(repeats: Mapping[int, int]) -> str:
    numbers = sorted(repeats)
    shown = [f"{number}x: {repeats[number]:,}" for number in numbers[:_MAX_REPEATS]]
    rest = sum(repeats[number] for number in numbers[_MAX_REPEATS:])
    return ", ".join(shown + ([f"more often: {rest:,}"] if rest else []))


# -------------------------------------------------------------------------------------------------
# A plan, and a plan beside a run, as text.
# -------------------------------------------------------------------------------------------------


def plan_text(plan: Plan) -> str:
    """Return what a run needs: whether it fits, how long it takes, what to type."""
    parts = [_head(plan), _memory(plan), _options(plan), _advice(plan), _time(plan), _disk(plan)]
    return "\n\n".join([*parts, f"submit: {plan.slurm.command}"])


def comparison_text(rows: Sequence[PlanComparison]) -> str:
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
