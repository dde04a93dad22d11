"""Files that a config entry names."""

from pathlib import Path

import pytest

from biomamba.data.raw_shards import expand_files, natural_order
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


def test_numbers_in_names_are_in_order(tmp_path: Path) -> None:
    names = ["pubmed24n9999.xml", "pubmed24n10000.xml", "pubmed25n0001.xml", "x2.xml", "x10.xml"]
    for name in names:
        (tmp_path / name).touch()

    assert [path.name for path in expand_files(f"{tmp_path}/*.xml", (".xml",))] == names


def test_names_with_numbers_of_the_same_width_keep_their_order(tmp_path: Path) -> None:
    names = sorted(f"{prefix}n{number:04d}.xml" for prefix in ("a", "b") for number in (1, 2, 30))

    assert sorted(map(Path, names), key=natural_order) == [Path(name) for name in names]


def test_a_name_without_a_number_and_other_digits_keep_their_place() -> None:
    names = ["1\u00b23.jsonl", "train.jsonl", "train1.jsonl", "train2.jsonl", "train10.jsonl"]

    assert sorted(map(Path, reversed(names)), key=natural_order) == [Path(name) for name in names]
