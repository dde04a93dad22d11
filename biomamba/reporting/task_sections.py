"""Tasks in a report: every model beside simple answers."""

from collections.abc import Mapping, Sequence

from biomamba.evaluation.task_records import TaskRecord
from biomamba.reporting.report_folders import TASK_RESULTS
from biomamba.reporting.report_inputs import Evaluation
from biomamba.reporting.run_groups import RunGroup
from biomamba.reporting.section import Part, Section, Table, csv_of
from biomamba.reporting.task_seed_tables import task_seeds_table
from biomamba.reporting.task_tables import task_cells

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
        "tells how much such a filter finds. "
        "How each interval was made: see the CSV."
    )
    seeds = task_seeds_table(evaluations, trained or {})
    return Section(title, [explanation, *([seeds] if seeds else []), *parts])


def _table(evaluation: Evaluation, task: str, records: Sequence[TaskRecord], number: int) -> Table:
    header, rows = task_cells(records)
    # The caption names the task; how intervals were made stands in the CSV file.
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
