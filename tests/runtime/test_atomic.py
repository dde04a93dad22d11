"""Files are complete or absent."""

import os
from pathlib import Path

import pytest

from biomamba.runtime.files import (
    remove_temporary_files,
    sync_folder,
    write_bytes,
    write_json,
    write_text,
)


def test_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"

    write_bytes(path, b"\x00\x01")

    assert path.read_bytes() == b"\x00\x01"
    assert list(path.parent.iterdir()) == [path]


def test_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old and long")

    write_text(path, "n\u00e9w")

    assert path.read_bytes() == b"n\xc3\xa9w"


def test_failure_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")

    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_a_new_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()

    write_text(tmp_path / "a.txt", "x")

    assert (tmp_path / "a.txt").stat().st_mode == plain.stat().st_mode


def test_json_is_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "\u00e9"})

    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "a": "\u00e9",\n  "b": 1\n}\n'


def test_number_that_json_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})

    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_not_synced(tmp_path: Path) -> None:
    sync_folder(tmp_path / "absent")

    assert not (tmp_path / "absent").exists()


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left = [".run.json.0badcafe.tmp", ".0badcafe.tmp.safetensors", ".tokenizer.json.0123abcd.tmp"]
    left += [".tmpDHn7mo"]  # of safetensors
    kept = [".hidden", ".notes.tmp", "run.json", "a.0badcafe.tmp", ".run.json.badcafe.tmp"]
    kept += [".tmp", ".tmpDHn7m", ".tmpDHn7mox", "x.tmpDHn7mo"]
    for name in left + kept:
        (tmp_path / name).write_text("half")
    (tmp_path / ".folder.0badcafe.tmp").mkdir()

    remove_temporary_files(tmp_path)
    remove_temporary_files(tmp_path / "absent")

    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*kept, ".folder.0badcafe.tmp"}
