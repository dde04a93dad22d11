"""The folders that a report is made of."""

from collections.abc import Callable
from pathlib import Path

import pytest

from biomamba.reporting.inputs import read_inputs, short_names
from biomamba.runtime.errors import DataError

WriteEvaluation = Callable[..., Path]
WriteRun = Callable[..., Path]


def test_each_folder_is_read_as_what_it_is(
    write_run: WriteRun,
    write_evaluation: WriteEvaluation,
    write_tasks: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run")
    scores = write_evaluation(tmp_path / "scores", {"base": {"web": 2.0}})
    found = read_inputs([scores, run, write_tasks(tmp_path / "tasks")])

    assert [each.name for each in found.runs] == ["run"]
    assert [each.name for each in found.evaluations] == ["scores", "tasks"]
    one, two = found.evaluations
    assert ([model.label for model in one.models], one.tasks) == (["base"], [])
    assert (len(two.tasks), two.models, two.records) == (2, [], [])


def test_a_folder_that_is_no_run_is_refused(write_run: WriteRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: no such folder; allowed are folders that biomamba"):
        read_inputs([tmp_path / "none"])
    write_run(tmp_path / "runs" / "a")
    (run,) = read_inputs([tmp_path / "runs"]).runs
    assert (run.name, run.folder) == ("a", tmp_path / "runs" / "a")


@pytest.mark.parametrize("content", [b"{half", b"[1]\n", b"3\n", b"\xff\xfe", b'{"a": 1}\n'])
@pytest.mark.parametrize("name", ["results.jsonl", "task_results.jsonl"])
def test_a_damaged_file_of_results_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=str(tmp_path)):
        read_inputs([tmp_path])


def test_names_are_the_shortest_ends_that_differ() -> None:
    folders = [Path("/r/x/a"), Path("/r/y/a"), Path("/r/b")]
    assert list(short_names(folders).values()) == ["x/a", "y/a", "b"]
    assert short_names([Path("/r/b/")]) == {Path("/r/b"): "b"}


def test_measurements_of_speed_are_read(tmp_path: Path) -> None:
    (tmp_path / "efficiency.jsonl").write_text("")
    found = read_inputs([tmp_path])

    assert (found.runs, found.evaluations) == ([], [])
    assert [(each.folder, each.records) for each in found.measured] == [(tmp_path, [])]
    (tmp_path / "efficiency.jsonl").write_text("{half")
    with pytest.raises(DataError, match=r"efficiency\.jsonl, line 1: not JSON"):
        read_inputs([tmp_path])
