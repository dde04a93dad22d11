"""Report sections on tasks: models beside trivial answers, and over seeds."""

from collections.abc import Mapping, Sequence

from biomamba.evaluation.records import CHANGE, TaskRecord
from biomamba.metrics.significance import over_seeds
from biomamba.reporting.groups import RunGroup
from biomamba.reporting.inputs import TASK_RESULTS, Evaluation
from biomamba.reporting.paper import over_records
from biomamba.reporting.section import Part, Section, Table, csv_of
from biomamba.reporting.tables import FILTERED_MEANS, interval_cell, task_cells
from biomamba.training.lineage import UNKNOWN, worst_status

# -------------------------------------------------------------------------------------------------
# Tasks over the seeds of a recipe: one line per recipe, task and main figure.
# -------------------------------------------------------------------------------------------------

_Key = tuple[str, str, str]  # recipe, task, how it was asked


def task_seeds_table(
    evaluations: Sequence[Evaluation], trained: Mapping[str, RunGroup]
) -> Table | None:
    """Return the main figure of each task over the seeds of recipes; None without several seeds.

    trained maps the sha256 of weights to the runs that wrote them.
    """
    found: dict[_Key, dict[str, TaskRecord]] = {}
    files: dict[str, None] = {}
    for evaluation in evaluations:
        for record in _main_figures(evaluation.tasks):
            sha256 = record.checkpoint_sha256 or ""
            if sha256 in trained:
                how = f"{record.split} {record.prompt} {record.answer.get('decision')}"
                key = (trained[sha256].name, record.task, how)
                found.setdefault(key, {})[sha256] = record
                files[str(evaluation.folder / TASK_RESULTS)] = None
    rows = [_row(key, list(seeds.values())) for key, seeds in found.items() if len(seeds) > 1]
    if not rows:
        return None
    return Table(
        name="task_seeds",
        caption="Recipes over their seeds: the mean of the main figure, wide enough for other "
        "items and other seeds. Recipes are tested against each other on the same items by "
        f"biomamba.compare. {FILTERED_MEANS}",
        header=["recipe", "task", "figure", "seeds", "items", "mean", "sd", "filtered"],
        rows=rows,
        files=list(files),
    )


def _main_figures(records: Sequence[TaskRecord]) -> list[TaskRecord]:
    """Return the first figure of each task of each model."""
    first: dict[tuple[str, str], TaskRecord] = {}
    for record in records:
        if record.checkpoint_sha256 is not None and not record.metric.endswith(CHANGE):
            first.setdefault((record.task, record.model), record)
    return list(first.values())


def _row(key: _Key, records: Sequence[TaskRecord]) -> list[str]:
    interval = over_records(records)
    deviation = over_seeds([record.value for record in records]).deviation
    first = records[0]
    return [
        key[0],
        key[1],
        first.metric,
        f"{len(records)}",
        f"{first.n:,}",
        interval_cell(interval, ".3f"),
        f"{deviation:.3f}",
        worst_status(record.filtered or UNKNOWN for record in records) or UNKNOWN,
    ]


# -------------------------------------------------------------------------------------------------
# Tasks in a report: every model beside simple answers.
# -------------------------------------------------------------------------------------------------

_FIELDS = ("task", "protocol", "split", "metric", "model", "value", "low", "high", "level")
_MORE = (
    "method",
    "n",
    "n_groups",
    "minimum_detectable_difference",
    "against",
    "p_value",
    "filtered",
)


def tasks_section(
    evaluations: Sequence[Evaluation], trained: Mapping[str, RunGroup] | None = None
) -> Section:
    """Return a table per task and evaluation, and one over the seeds of recipes.

    trained maps the sha256 of weights to the runs that wrote them.
    """
    title = "Tasks"
    parts: list[Part] = []
    for evaluation in evaluations:
        for task in dict.fromkeys(record.task for record in evaluation.tasks):
            mine = [record for record in evaluation.tasks if record.task == task]
            parts.append(_table(evaluation, task, mine, len(parts) + 1))
    if not parts:
        return Section(
            title,
            [
                "No task was evaluated; python -m biomamba.evaluate task=[pubmedqa] "
                "checkpoint=... fills this section."
            ],
        )
    explanation = (
        "Values with their intervals. majority: always the most frequent answer of the training "
        "split; random: an answer by lot. Detectable: the smallest difference that so many items "
        "can be expected to show; smaller ones may exist and not be seen. A change is on the same "
        "items, minus the baseline of the evaluation. Filtered: whether the files of the test are "
        "among those that the training data were filtered against; docs/results/contamination.md "
        "says how much such a filter finds. "
        "How each interval was made: see the CSV."
    )
    seeds = task_seeds_table(evaluations, trained or {})
    return Section(title, [explanation, *([seeds] if seeds else []), *parts])


def _table(evaluation: Evaluation, task: str, records: Sequence[TaskRecord], number: int) -> Table:
    header, rows = task_cells(records)
    # The caption names the task; how intervals were made is in the CSV file.
    shown = [index for index, name in enumerate(header) if name not in ("task", "interval")]
    first = next((record for record in records if record.answer), records[0])
    chosen = [str(first.answer[key]) for key in ("by", "decision") if first.answer.get(key)]
    return Table(
        name=f"task_{number}",
        caption=f"{task} in {evaluation.name}: protocol {first.protocol}, {first.split} split, "
        f"prompt {first.prompt}, answers by {', '.join(chosen) or 'a fixed rule'}.",
        header=[header[index] for index in shown],
        rows=[[row[index] for index in shown] for row in rows],
        files=[str(evaluation.folder / TASK_RESULTS)],
        values=csv_of(
            [*_FIELDS, *_MORE],
            [[getattr(record, name) for name in (*_FIELDS, *_MORE)] for record in records],
        ),
    )
