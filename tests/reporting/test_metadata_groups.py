"""Groups of documents by year and subject, with an invented tree."""

from pathlib import Path

import pytest

from biomamba.data.document import DocumentFacts, MeshTerm
from biomamba.reporting.metadata import (
    MeshTree,
    by_subject,
    by_year,
    large_groups,
    unknown_descriptors,
)
from biomamba.runtime.errors import ConfigError, DataError

TREE = """\
Sorrows;C04
Blue Sorrows;C04.588
Blue Sorrows;C10.100
Deep Blue Sorrows;C04.588.274
Nerves;C10
"""
BLUE, DEEP = MeshTerm("D2", "blue sorrows"), MeshTerm("D3", "Deep Blue Sorrows", is_major=True)
NERVES, LOST = MeshTerm("D4", "Nerves"), MeshTerm("D5", "Renamed Long Ago")
KNOWN = [
    DocumentFacts(2001, (BLUE, DEEP)),
    None,
    DocumentFacts(None, (NERVES,)),
    DocumentFacts(1999, (LOST, NERVES)),
    DocumentFacts(2001),
]


@pytest.fixture
def tree(tmp_path: Path) -> MeshTree:
    path = tmp_path / "mtrees.bin"
    path.write_text(TREE)
    return MeshTree.read(path)


def test_years_come_in_order_and_unknown_ones_are_left_out() -> None:
    assert by_year(KNOWN) == {"1999": [3], "2001": [0, 4]}
    assert list(by_year(KNOWN)) == ["1999", "2001"]


def test_a_document_counts_once_in_each_of_its_branches(tree: MeshTree) -> None:
    """Both sorrows of document 0 are in C04, and one of them also in C10."""
    assert by_subject(KNOWN, tree, 1) == {"C10 Nerves": [0, 2, 3], "C04 Sorrows": [0]}
    assert by_subject(KNOWN, tree, 2) == {
        "C10 Nerves": [2, 3],
        "C04.588 Blue Sorrows": [0],
        "C10.100 Blue Sorrows": [0],
    }


def test_the_largest_subject_comes_first(tree: MeshTree) -> None:
    assert list(by_subject(KNOWN, tree, 1)) == ["C10 Nerves", "C04 Sorrows"]


def test_without_trees_subjects_are_descriptors() -> None:
    names = {"Nerves": [2, 3], "Deep Blue Sorrows": [0], "Renamed Long Ago": [3]}
    assert by_subject(KNOWN, None, 1) == {**names, "blue sorrows": [0]}


def test_small_groups_go() -> None:
    assert large_groups(by_year(KNOWN), 2) == {"2001": [0, 4]}


def test_descriptors_that_the_trees_do_not_have_are_counted(tree: MeshTree) -> None:
    assert unknown_descriptors(KNOWN, tree) == (1, 4)


def test_a_missing_file_is_told_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report\.metadata\.mesh_tree names .*none, which is no"):
        MeshTree.read(tmp_path / "none")


@pytest.mark.parametrize("line", ["Sorrows", "Sorrows;", ";C04", "Sorrows;C4", "Sorrows;C04."])
def test_a_line_of_another_kind_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(f"Nerves;C10\n\n{line}\n")
    with pytest.raises(DataError, match=r"t, line 3: expected `name;tree number`"):
        MeshTree.read(tmp_path / "t")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("\n")
    with pytest.raises(DataError, match="holds no line"):
        MeshTree.read(tmp_path / "t")
