"""The shapes of records: every kind of damage at every depth becomes a DataError."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from biomamba.reporting.groups import run_groups
from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.training_sections import origin_section, summary_section
from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import RESULT, RUN, TASK_RESULT, check_shape

ODD: tuple[Any, ...] = (3, "odd", [1], {"odd": 1}, None)


def _damaged(value: Any) -> Iterator[Any]:
    """Yield the value with every part of it, one at a time, made something else."""
    yield from ODD
    if isinstance(value, dict):
        for key, inner in value.items():
            for odd in _damaged(inner):
                yield {**value, key: odd}


def test_records_as_they_are_written_have_their_shapes(
    write_run: Callable[..., Path],
    write_evaluation: Callable[..., Path],
    write_tasks: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    check_shape("", json.loads((write_run(tmp_path / "r") / "run.json").read_text()), RUN)
    scores = write_evaluation(tmp_path / "e", {"base": {"web": 2.0}}) / "results.jsonl"
    for path, shape in ((scores, RESULT), (write_tasks(tmp_path / "t"), TASK_RESULT)):
        file = path if path.is_file() else path / "task_results.jsonl"
        for line in file.read_text().splitlines():
            check_shape("", json.loads(line), shape)


def test_no_damage_of_a_run_is_a_traceback(write_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    for path in folder.rglob("events.out*"):
        path.unlink()
    whole = json.loads((folder / "run.json").read_text())
    num_refused = 0
    for odd in _damaged(whole):
        (folder / "run.json").write_text(json.dumps(odd))
        try:
            inputs = read_inputs([folder])
            origin_section(inputs, [summary_section(run_groups(inputs.runs))], {})
            assert inputs.runs[0].validation("nll") is not None
        except DataError as error:
            assert str(folder) in str(error)  # noqa: PT017 - some of them are harmless
            num_refused += 1
    assert num_refused > 50
