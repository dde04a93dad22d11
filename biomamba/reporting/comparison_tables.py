"""Comparisons of models as Markdown tables."""

import math
from collections.abc import Sequence

from biomamba.evaluation.comparison_records import Comparison, ComparisonRecord
from biomamba.reporting.tables import markdown_table

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
        _number(record.minimum_detectable_difference, style),
        record.filtered or NONE,
    ]


def number_style(record: ComparisonRecord) -> str:
    """Return the format of a figure: two digits for what counts in units, else three."""
    return ".2f" if record.metric == "perplexity" or abs(record.value) >= 10 else ".3f"


def value_cell(record: ComparisonRecord) -> str:
    """Return a figure with its interval."""
    style = number_style(record)
    return f"{record.value:{style}} [{_number(record.low, style)}, {_number(record.high, style)}]"


def difference_cell(record: ComparisonRecord) -> str:
    """Return the difference with its interval; a dash for the reference."""
    style = f"+{number_style(record)}"
    if record.difference is None:
        return NONE
    low, high = (_number(x, style) for x in (record.difference_low, record.difference_high))
    return f"{record.difference:{style}} [{low}, {high}]"


def _number(value: float | None, style: str) -> str:
    return NONE if value is None or math.isnan(value) else f"{value:{style}}"


def probability_cell(value: float | None) -> str:
    """Return a p value as in a table."""
    if value is None or math.isnan(value):
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"
