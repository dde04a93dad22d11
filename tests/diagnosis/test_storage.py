import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from biomamba.diagnosis import storage
from biomamba.diagnosis.machine import State, worst
from biomamba.diagnosis.storage import check_run_folder, existing_parent

SMALL = 10**6
Usage = namedtuple("Usage", "total used free")


def test_a_good_folder_passes_and_nothing_stays_there(tmp_path: Path) -> None:
    found = list(check_run_folder(tmp_path / "runs" / "x", SMALL))

    assert [finding.topic for finding in found] == ["disk", "write speed", "atomic rename"]
    assert worst(found) != State.PROBLEM
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_folder_that_is_there_counts(tmp_path: Path) -> None:
    assert existing_parent(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "a").mkdir()
    assert existing_parent(tmp_path / "a" / "b") == tmp_path / "a"


@pytest.mark.parametrize(
    ("free_gb", "state"), [(100, State.OK), (5, State.WARNING), (0.5, State.PROBLEM)]
)
def test_room_is_judged(
    free_gb: float, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, int(free_gb * 10**9)))

    assert next(check_run_folder(tmp_path, SMALL)).state == state


def test_a_folder_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage, "write_bytes", refuse)

    last = list(check_run_folder(tmp_path, SMALL))[-1]

    assert (last.topic, last.state) == ("run folder", State.PROBLEM)
    assert "Permission denied" in last.text


def test_files_that_are_not_replaced_at_once_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_pieces(path: Path, content: bytes) -> None:
        with path.open("wb") as file:  # empty until the content is there
            for _ in range(50):
                file.write(content[: len(content) // 50])
                file.flush()

    monkeypatch.setattr(storage, "write_bytes", in_pieces)
    monkeypatch.setattr(storage, "_REPLACEMENTS", 500)

    last = list(check_run_folder(tmp_path, SMALL))[-1]

    assert (last.topic, last.state) == ("atomic rename", State.PROBLEM)
