"""Markdown tables of result records, tasks, audits and comparisons."""

import math
from collections.abc import Iterable, Mapping, Sequence

from biomamba.data.datamodule import Exposure
from biomamba.evaluation.comparison import Comparison, ComparisonRecord
from biomamba.evaluation.leakage import SplitLeakage
from biomamba.evaluation.records import CHANGE, ResultRecord, TaskRecord
from biomamba.evaluation.task_runner import MAJORITY, RANDOM
from biomamba.evaluation.verbatim import Repeated
from biomamba.metrics.measure import Interval
from biomamba.training.lineage import UNKNOWN

_PER_TOKEN = ("perplexity", "perplexity_change")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned Markdown table; the first column is left-aligned, the others right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]

    def render(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join(
        ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    )
    return "\n".join([render(lines[0]), rule + "|", *(render(line) for line in lines[1:])])


def exposure_table(exposures: Mapping[str, Exposure]) -> str:
    """Return one line per source of a run: its size, packing and repetition."""
    header = ["source", "documents", "tokens", "dropped tokens", "cut documents", "padding"]
    header += ["rows drawn", "epochs"]
    rows = [
        [
            name,
            f"{found.num_documents:,}",
            f"{found.num_tokens:,}",
            f"{found.num_dropped_tokens:,}",
            f"{found.num_cut_documents:,}",
            f"{found.padding_ratio:.1%}",
            f"{found.num_rows_drawn:,}",
            f"{found.epochs:.2f}",
        ]
        for name, found in exposures.items()
    ]
    return markdown_table(header, rows)


def perplexity_table(records: Sequence[ResultRecord]) -> str:
    """Return one line per source: each model's figures side by side, then the paired change.

    A model with another tokenizer than the stores has no perplexity, and a change beside it is one
    of bits per byte; the tokens are those of the stores where a model read them.
    """
    records = [record for record in records if record.first_position is None]
    models = list(dict.fromkeys(record.model for record in records))
    found = {(r.source, r.model, r.metric): r for r in records}
    metrics = {record.metric for record in records}
    change = "perplexity_change" if "perplexity_change" in metrics else "bits_per_byte_change"
    label, style = ("perplexity", "+.1%") if change in _PER_TOKEN else ("bits/byte", "+.3f")
    header = ["source", "documents", "tokens"]
    header += [f"perplexity {model}" for model in models]
    header += [f"bits/byte {model}" for model in models]
    header += [f"{label} change"] if change in metrics else []
    rows = []
    for source in dict.fromkeys(record.source for record in records):
        mine = [record for record in records if record.source == source]
        first = next((record for record in mine if record.metric in _PER_TOKEN), mine[0])
        row = [source, f"{first.num_documents:,}", f"{first.num_tokens:,}"]
        row += [_cell(found.get((source, model, "perplexity")), ".2f") for model in models]
        row += [_cell(found.get((source, model, "bits_per_byte")), ".3f") for model in models]
        row += [_record_interval(record, style) for record in mine if record.metric == change]
        rows.append(row)
    return markdown_table(header, rows)


def positions_table(records: Sequence[ResultRecord]) -> str:
    """Return one line per source and bucket of positions: the perplexities side by side."""
    placed = [record for record in records if record.first_position is not None]
    models = list(dict.fromkeys(record.model for record in placed))
    found = {(r.source, r.first_position, r.model): r for r in placed}
    header = ["source", "positions", "documents", "tokens"]
    header += [f"perplexity {model}" for model in models]
    rows = []
    for source, begin in dict.fromkeys((r.source, r.first_position) for r in placed):
        first = found[source, begin, models[0]]
        row = [source, f"{begin:,} to {(first.end_position or 0) - 1:,}"]
        row += [f"{first.num_documents:,}", f"{first.num_tokens:,}"]
        row += [_record_interval(found[source, begin, model], ".2f") for model in models]
        rows.append(row)
    return markdown_table(header, rows)


def _cell(record: ResultRecord | None, style: str) -> str:
    return "n/a" if record is None else _record_interval(record, style)


def _record_interval(record: ResultRecord, style: str) -> str:
    return interval_cell(record.interval, style)


def interval_cell(found: Interval, style: str) -> str:
    """Return a figure with its bounds, or alone if it has none."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{found.value:{style}}"
    return f"{found.value:{style}} [{found.low:{style}}, {found.high:{style}}]"


# -------------------------------------------------------------------------------------------------
# Records of tasks as a Markdown table.
# -------------------------------------------------------------------------------------------------

_NOTHING = "-"


def task_table(records: Sequence[TaskRecord]) -> str:
    """Return one line per task and metric: simple answers, the models, then their changes."""
    return markdown_table(*task_cells(records))


def task_cells(records: Sequence[TaskRecord]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of task_table."""
    figures = [record for record in records if record.against is None]
    found = {(r.task, r.metric, r.model): r for r in records}
    simple = [name for name in (MAJORITY, RANDOM) if any(r.model == name for r in figures)]
    models = [m for m in dict.fromkeys(r.model for r in figures) if m not in (MAJORITY, RANDOM)]
    changed = list(dict.fromkeys(r.model for r in records if r.against is not None))
    header = ["task", "metric", "n", *simple, *models, "interval", "detectable"]
    for model in changed:
        header += [f"change {model}", "p", "McNemar p"]
    rows = []
    for task, metric in dict.fromkeys((r.task, r.metric) for r in figures):
        here = {model: found.get((task, metric, model)) for model in (*simple, *models)}
        first = next(record for record in (here[m] for m in (*models, *simple)) if record)
        row = [task, metric, _size(first)]
        row += [_task_number(here[name]) for name in simple]
        row += [_task_interval(here[name]) for name in models]
        methods = dict.fromkeys(r.method for name in models if (r := here[name]) is not None)
        row += ["; ".join(methods), _optional(first.minimum_detectable_difference, ".3f")]
        for model in changed:
            row += _change(found.get((task, f"{metric}{CHANGE}", model)))
        rows.append([*row, _filtered([(name, here[name]) for name in models])])
    return [*header, "filtered"], rows


def filter_notes(records: Sequence[TaskRecord]) -> list[str]:
    """Return why the column `filtered` says something else, a line for each model and task."""
    notes = []
    for record in records:
        if record.filter_reasons:
            reasons = "; ".join(record.filter_reasons)
            notes.append(f"{record.model} on {record.task}: {record.filtered}: {reasons}")
    return list(dict.fromkeys(notes))


def _filtered(found: Sequence[tuple[str, TaskRecord | None]]) -> str:
    """Return whether the items were kept out of the training data, of each model where they differ.

    Of records of earlier versions nothing is known.
    """
    known = {name: record.filtered or UNKNOWN for name, record in found if record is not None}
    words = list(dict.fromkeys(known.values()))
    if len(words) > 1:
        return "; ".join(f"{name}: {word}" for name, word in known.items())
    return words[0] if words else _NOTHING


def _size(record: TaskRecord) -> str:
    """Return the number of items, of groups, and of the rows that are no items, by reason."""
    notes = [] if record.n_groups == record.n else [f"{record.n_groups:,} groups"]
    # Records of earlier versions keep the rejects in the provenance.
    rejects = record.rejects or record.provenance.get("rejects") or {}
    notes += [f"left out: {count:,} {reason}" for reason, count in rejects.items()]
    return f"{record.n:,}" + (f" ({'; '.join(notes)})" if notes else "")


def _task_number(record: TaskRecord | None) -> str:
    return _NOTHING if record is None else f"{record.value:.3f}"


def _task_interval(record: TaskRecord | None, style: str = ".3f") -> str:
    if record is None:
        return _NOTHING
    return interval_cell(record.interval, style)  # the column `interval` says why there is none


def _change(record: TaskRecord | None) -> list[str]:
    if record is None:
        return [_NOTHING] * 3
    exact = None if record.mcnemar is None else record.mcnemar["p_value"]
    return [
        _task_interval(record, "+.3f"),
        _optional(record.p_value, ".3g"),
        _optional(exact, ".3g"),
    ]


def _optional(value: float | None, style: str) -> str:
    return _NOTHING if value is None else f"{value:{style}}"


# -------------------------------------------------------------------------------------------------
# Audits as Markdown tables: counts only.
# -------------------------------------------------------------------------------------------------


def leakage_table(task: str, found: Mapping[str, SplitLeakage]) -> str:
    """Return a line per split and withheld text, and one per split for all of its items.

    Then, where there are any, the prompts that have the words of a withheld heading.
    """
    header = ["task, split, text", "items", "too short", "whole in prompt", "runs in prompt"]
    header += ["words in prompt", "prompts in train", "targets in train"]
    rows = []
    for split, leakage in found.items():
        known = [leakage.num_prompts_in_train, leakage.num_targets_in_train]
        in_train = ["", ""] if split == "train" else [f"{number:,}" for number in known]
        total = [f"{leakage.num_items:,}", "", "", _share(leakage.num_leaking, leakage.num_items)]
        rows.append([f"{task} {split}: any", *total, "", *in_train])
        for name, each in leakage.texts.items():
            told = each.num_texts - each.num_short
            counts = [f"{each.num_texts:,}", f"{each.num_short:,}", f"{each.num_whole:,}"]
            shares = [
                _share(each.num_with_runs, told),
                _share(each.num_leaked_words, each.num_words),
            ]
            rows.append([f"{task} {split}: {name}", *counts, *shares, "", ""])
        for name, count in {"any": leakage.num_with_headings, **leakage.headings}.items():
            if leakage.headings:
                label = f"{task} {split}: words of the heading {name}"
                share = _share(count, leakage.num_items)
                rows.append([label, f"{leakage.num_items:,}", "", "", share, "", "", ""])
    return markdown_table(header, rows)


def verbatim_table(found: Mapping[str, Repeated], num_notes: int) -> str:
    """Return how many texts repeat how much."""
    repeating = [each for each in found.values() if each.longest_run_words]
    num_words = sum(each.num_words for each in found.values())
    num_repeated = sum(each.num_repeated_words for each in found.values())
    longest = max((each.longest_run_words for each in repeating), default=0)
    rows = [
        ["notes compared with", f"{num_notes:,}"],
        ["texts", f"{len(found):,}"],
        ["texts that repeat a note", _share(len(repeating), len(found))],
        ["words in repeated runs", _share(num_repeated, num_words)],
        ["words of the longest run", f"{longest:,}"],
    ]
    return markdown_table(["verbatim", "count"], rows)


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})" if of else f"{count:,}"


# -------------------------------------------------------------------------------------------------
# Comparisons of models as Markdown tables.
# -------------------------------------------------------------------------------------------------

_HEADER = (
    "subject",
    "metric",
    "model",
    "items",
    "value",
    "seeds",
    "difference",
    "p",
    "p (Holm)",
    "only one right",
    "detectable",
    "filtered",
)
NONE = "-"
FILTERED_MEANS = (
    "Filtered: whether the files of the test are among those that the training data of the model "
    "were filtered against; of several seeds the worst."
)


def comparison_table(records: Sequence[ComparisonRecord]) -> str:
    """Return one line per figure and model; columns that say nothing are left out."""
    return markdown_table(*comparison_cells(records))


def comparison_cells(records: Sequence[ComparisonRecord]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of comparison_table."""
    lines = [_cells(record) for record in records]
    used = [index for index in range(len(_HEADER)) if any(line[index] != NONE for line in lines)]
    header = [_HEADER[index] for index in used]
    return header, [[line[index] for index in used] for line in lines]


def comparison_report(comparison: Comparison) -> str:
    """Return the table, how to read it, and what was left out."""
    lines = [comparison_table(comparison.records), "", comparison_explanation(comparison.records)]
    lines += ["", *(f"- {note}" for note in comparison.notes)] if comparison.notes else []
    return "\n".join(lines)


def comparison_explanation(records: Sequence[ComparisonRecord]) -> str:
    """Say how to read the table."""
    first = records[0]
    level, power = f"{first.level:.0%}", next((r.power for r in records if r.power), 0.8)
    against = next((r.against for r in records if r.against), first.model)
    num_tests = sum(record.p_value is not None for record in records)
    explanation = (
        f"Value and difference with their {level} intervals; differences are model minus "
        f"{against}, on the same items. p is two-sided; p (Holm) is corrected for the {num_tests} "
        f"tests of this table. Detectable: the smallest true difference that these items show with "
        f"probability {power:.0%}; smaller ones may exist and not be seen."
    )
    if any(record.model_only is not None for record in records):
        explanation += (
            f" Only one right: items that only the model, and only {against}, gets right."
        )
    if any(record.filtered is not None for record in records):
        explanation += f" {FILTERED_MEANS}"
    return explanation


def _cells(record: ComparisonRecord) -> list[str]:
    style = number_style(record)
    groups = f" in {record.n_groups:,}" if record.n_groups != record.n else ""
    seeds = len(record.seed_values)
    return [
        record.subject,
        record.metric,
        record.model,
        f"{record.n:,}{groups}",
        value_cell(record),
        f"{seeds}, sd {record.deviation:{style}}" if seeds > 1 else NONE,
        difference_cell(record),
        probability_cell(record.p_value),
        probability_cell(record.p_holm),
        NONE if record.model_only is None else f"{record.model_only:,} : {record.against_only:,}",
        _styled(record.minimum_detectable_difference, style),
        record.filtered or NONE,
    ]


def number_style(record: ComparisonRecord) -> str:
    """Return the format of a figure: two digits for what counts in units, else three."""
    return ".2f" if record.metric == "perplexity" or abs(record.value) >= 10 else ".3f"


def value_cell(record: ComparisonRecord) -> str:
    """Return a figure with its interval."""
    style = number_style(record)
    return f"{record.value:{style}} [{_styled(record.low, style)}, {_styled(record.high, style)}]"


def difference_cell(record: ComparisonRecord) -> str:
    """Return the difference with its interval; a dash for the reference."""
    style = f"+{number_style(record)}"
    if record.difference is None:
        return NONE
    low, high = (_styled(x, style) for x in (record.difference_low, record.difference_high))
    return f"{record.difference:{style}} [{low}, {high}]"


def _styled(value: float | None, style: str) -> str:
    return NONE if value is None or math.isnan(value) else f"{value:{style}}"


def probability_cell(value: float | None) -> str:
    """Return a p value as in a table."""
    if value is None or math.isnan(value):
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"
