"""Parts of a report."""

import pytest

from biomamba.reporting.section import Picture, Section, Table, csv_of, labels_of

TABLE = Table(name="a", caption="", header=["x", "y"], rows=[["1,5", "b"]])
PICTURE = Picture(name="b", caption="", png=b"")


def test_tables_and_figures_are_counted_apart() -> None:
    more = Table(name="c", caption="", header=[], rows=[])
    found = labels_of([Section("one", ["text", TABLE, PICTURE]), Section("two", [more])])

    assert found == {"a": "Table 1", "c": "Table 2", "b": "Figure 1"}


def test_two_parts_of_one_name_would_overwrite_each_other() -> None:
    with pytest.raises(ValueError, match=r"names of their own, got \['a', 'a'\]"):
        labels_of([Section("one", [TABLE, Picture(name="a", caption="", png=b"")])])


def test_csv_holds_the_cells_or_what_was_given() -> None:
    assert TABLE.csv() == 'x,y\n"1,5",b\n'
    assert csv_of(["n", "m"], [[None, 1], [1.5, ""]]) == "n,m\n,1\n1.5,\n"
    given = Table(name="a", caption="", header=["x"], rows=[["1"]], values="x\n1.25\n")
    assert given.csv() == "x\n1.25\n"


def test_a_title_becomes_a_link() -> None:
    assert Section("Bits & bytes, 2", []).anchor == "bits-bytes-2"
