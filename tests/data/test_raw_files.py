"""Files that a config entry names."""

from pathlib import Path

import pytest

from biomamba.data.raw_files import expand_files
from biomamba.runtime.errors import DataError


def test_a_pattern_gives_its_files_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.xml", "a.xml", "c.txt"):
        (tmp_path / name).touch()
    assert expand_files(f"{tmp_path}/*.xml", (".xml",)) == [tmp_path / "a.xml", tmp_path / "b.xml"]
    assert expand_files(f"{tmp_path}/c.txt", (".xml", ".txt")) == [tmp_path / "c.txt"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("gone.xml", "gone.xml does not exist"),
        ("x*.xml", r"no raw file matches .*/x\*.xml"),
        ("a.doc", r"a.doc is of no known kind; known: \.xml, \.txt"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, entry: str, message: str) -> None:
    (tmp_path / "a.doc").touch()
    with pytest.raises(DataError, match=message):
        expand_files(f"{tmp_path}/{entry}", (".xml", ".txt"))
