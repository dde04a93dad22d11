"""Tasks over the seeds of a recipe."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from biomamba.reporting.groups import RunGroup
from biomamba.reporting.inputs import Evaluation, read_inputs
from biomamba.reporting.task_sections import task_seeds_table, tasks_section


def _evaluations(
    write_tasks: Callable[[Path], Path], folder: Path, values: dict[str, float]
) -> list[Evaluation]:
    """Return an evaluation for each checkpoint, with this accuracy."""
    (evaluation,) = read_inputs([write_tasks(folder)]).evaluations
    majority, asked = evaluation.tasks
    return [
        replace(evaluation, tasks=[majority, replace(asked, value=v, checkpoint_sha256=sha256)])
        for sha256, v in values.items()
    ]


def test_seeds_are_one_line_whatever_their_order(
    write_tasks: Callable[[Path], Path], tmp_path: Path
) -> None:
    group = RunGroup("tuned", ())
    evaluations = _evaluations(write_tasks, tmp_path, {"a": 0.6, "b": 0.65, "c": 0.7, "d": 0.1})
    trained = dict.fromkeys("abc", group)
    table = task_seeds_table(evaluations, trained)
    assert table is not None
    assert list(table.rows) == list(task_seeds_table(evaluations[::-1], trained).rows)  # type: ignore[union-attr]
    (row,) = table.rows
    # Mean 0.65 and deviation 0.05: t(0.975, 2) 0.05 / sqrt(3) = 0.1242; the items alone are 0.125
    # wide on each side; both together sqrt(0.1242 ** 2 + 0.125 ** 2) = 0.176.
    assert row == [
        "tuned",
        "quiz",
        "accuracy",
        "3",
        "40",
        "0.650 [0.474, 0.826]",
        "0.050",
        "unknown",
    ]
    assert table in tasks_section(evaluations, trained).parts


def test_a_recipe_is_filtered_if_all_of_its_seeds_are(
    write_tasks: Callable[[Path], Path], tmp_path: Path
) -> None:
    evaluations = _evaluations(write_tasks, tmp_path, {"a": 0.6, "b": 0.65})
    for words, told in (
        (["filtered", "filtered"], "filtered"),
        (["filtered", None], "unknown"),
        (["unknown", "not filtered"], "not filtered"),
    ):
        marked = [
            replace(each, tasks=[replace(record, filtered=word) for record in each.tasks])
            for each, word in zip(evaluations, words, strict=True)
        ]
        table = task_seeds_table(marked, dict.fromkeys("ab", RunGroup("tuned", ())))
        assert table is not None
        assert [row[list(table.header).index("filtered")] for row in table.rows] == [told]


def test_one_seed_is_no_line(write_tasks: Callable[[Path], Path], tmp_path: Path) -> None:
    evaluations = _evaluations(write_tasks, tmp_path, {"a": 0.6, "b": 0.65})
    assert task_seeds_table(evaluations, {"a": RunGroup("tuned", ())}) is None
    assert task_seeds_table([], {}) is None
