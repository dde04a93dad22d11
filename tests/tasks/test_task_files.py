"""Files named in the configuration of a task."""

from hashlib import sha256
from pathlib import Path

import pytest

from biomamba.runtime.errors import DataError
from biomamba.tasks.task import file_hashes, named_files


def test_entries_stand_for_their_files_in_order(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "c.json"):
        (tmp_path / name).write_text(name, encoding="utf-8")

    paths = named_files([str(tmp_path / "c.json"), str(tmp_path / "[ab]*.json")], [".json"])

    assert [path.name for path in paths] == ["c.json", "a.json", "b.json"]
    assert file_hashes(paths)["a.json"] == sha256(b"a.json").hexdigest()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.json does not exist"):
        named_files([str(tmp_path / "gone.json")], [".json"])
