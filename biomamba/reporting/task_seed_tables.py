"""Tasks over the seeds of a recipe: one line per recipe, task and main figure."""

from collections.abc import Mapping, Sequence

from biomamba.evaluation.task_records import CHANGE, TaskRecord
from biomamba.metrics.seeds import over_seeds
from biomamba.reporting.comparison_tables import FILTERED_MEANS
from biomamba.reporting.paper_candidates import over_records
from biomamba.reporting.report_folders import TASK_RESULTS
from biomamba.reporting.report_inputs import Evaluation
from biomamba.reporting.run_groups import RunGroup
from biomamba.reporting.section import Table
from biomamba.reporting.tables import interval_cell
from biomamba.training.lineage import UNKNOWN, worst_status

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
