"""Tasks in a report."""

import csv
from collections.abc import Callable
from pathlib import Path

from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.section import Table
from biomamba.reporting.task_sections import tasks_section


def test_models_stand_beside_the_majority(
    write_tasks: Callable[[Path], Path], tmp_path: Path
) -> None:
    _, table = tasks_section(read_inputs([write_tasks(tmp_path / "a")]).evaluations).parts
    assert isinstance(table, Table)
    assert table.header == ["metric", "n", "majority", "adapted", "detectable", "filtered"]
    assert table.rows == [["accuracy", "40", "0.500", "0.625 [0.500, 0.750]", "0.250", "unknown"]]
    assert table.caption.startswith("quiz in a: protocol quiz-2way, test split, prompt quiz-v1")
    assert table.caption.endswith("answers by likelihood, argmax.")
    rows = list(csv.DictReader(table.csv().splitlines()))
    assert [(row["model"], float(row["value"]), row["method"]) for row in rows] == [
        ("majority", 0.5, "wilson"),
        ("adapted", 0.625, "wilson"),
    ]


def test_what_is_missing_is_said() -> None:
    assert "fills this section" in str(tasks_section([]).parts)
