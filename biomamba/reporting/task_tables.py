"""Records of tasks as a Markdown table."""

from collections.abc import Sequence

from biomamba.evaluation.simple_answers import MAJORITY, RANDOM
from biomamba.evaluation.task_records import CHANGE, TaskRecord
from biomamba.reporting.tables import interval_cell, markdown_table
from biomamba.training.lineage import UNKNOWN

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
        row += [_number(here[name]) for name in simple]
        row += [_interval(here[name]) for name in models]
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


def _number(record: TaskRecord | None) -> str:
    return _NOTHING if record is None else f"{record.value:.3f}"


def _interval(record: TaskRecord | None, style: str = ".3f") -> str:
    if record is None:
        return _NOTHING
    return interval_cell(record.interval, style)  # the column `interval` says why there is none


def _change(record: TaskRecord | None) -> list[str]:
    if record is None:
        return [_NOTHING] * 3
    exact = None if record.mcnemar is None else record.mcnemar["p_value"]
    return [_interval(record, "+.3f"), _optional(record.p_value, ".3g"), _optional(exact, ".3g")]


def _optional(value: float | None, style: str) -> str:
    return _NOTHING if value is None else f"{value:{style}}"
