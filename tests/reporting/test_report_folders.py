"""Which folders a report is made of."""

from pathlib import Path

import pytest

from biomamba.reporting.inputs import find_folders
from biomamba.runtime.errors import ConfigError, DataError


def _record(folder: Path, name: str = "run.json") -> Path:
    folder.mkdir(parents=True)
    (folder / name).write_text("{}")
    return folder


def test_a_parent_and_a_pattern_find_what_lies_below(tmp_path: Path) -> None:
    one, two = _record(tmp_path / "a" / "x" / "seed_1"), _record(tmp_path / "a" / "x" / "seed_2")
    three = _record(tmp_path / "b" / "y", "task_results.jsonl")
    _record(one / "inside")  # nothing is looked for inside of a run
    _record(tmp_path / ".hidden" / "z")
    assert find_folders([tmp_path]).found == [one, two, three]
    assert find_folders([tmp_path / "a" / "*" / "seed_*"]).found == [one, two]
    assert find_folders([three, tmp_path / "*"]).found == [three, one, two]


def test_what_is_found_twice_counts_once_but_is_not_named_twice(tmp_path: Path) -> None:
    one = _record(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path)  # a loop
    assert find_folders([tmp_path, one]).found == [one]
    with pytest.raises(ConfigError, match="names a folder twice"):
        find_folders([one, one])
    with pytest.raises(ConfigError, match="runs is empty"):
        find_folders([])


def test_unfinished_runs_are_told_of(tmp_path: Path) -> None:
    one = _record(tmp_path / "a")
    (tmp_path / "b" / "tensorboard").mkdir(parents=True)
    _record(tmp_path / "b" / ".hydra", "config.yaml")
    found = find_folders([tmp_path])
    assert (found.found, found.unfinished) == ([one], [tmp_path / "b"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none: no such folder; allowed are folders that biomamba"),
        ("n*", r"n\*: no folder matches this pattern"),
        ("empty", "no run and no evaluation, nor any below it"),
        ("file", "file: not a folder"),
    ],
)
def test_what_holds_nothing_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=message):
        find_folders([tmp_path / name])
