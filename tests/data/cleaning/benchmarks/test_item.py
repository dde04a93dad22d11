"""What the benchmark loaders share."""

from pathlib import Path

import pytest

from biomamba.data.cleaning.benchmarks import hash_files, text_list
from biomamba.data.rows import read_json_file
from biomamba.runtime.errors import DataError


@pytest.mark.parametrize("content", [b"", b"{", b"\xff{}", b'{"a": 1}}'])
def test_a_file_that_is_no_json_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"set\.json: .*(not JSON|UTF-8)"):
        read_json_file(path)


def test_texts_come_as_one_or_many_or_none() -> None:
    assert text_list(None) == []
    assert text_list("one") == ["one"]
    assert text_list(["one", "two"]) == ["one", "two"]
    assert text_list(["one", 2]) is None
    assert text_list({"one": "two"}) is None


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [tmp_path / name / "set.json" for name in ("a", "b", "c")]
    for path, text in zip(paths, ("{}", "[]", "{}"), strict=True):
        path.parent.mkdir()
        path.write_text(text)

    assert list(hash_files(paths[:1])) == ["set.json"]
    assert list(hash_files(paths)) == ["set.json", "b/set.json"]
