"""Rows of task files: what is refused, counted and chosen."""

from pathlib import Path

import pytest

from biomamba.data.document import Reject, document_key
from biomamba.runtime.errors import DataError
from biomamba.tasks.prompt import Item
from biomamba.tasks.task import check_apart, collect, rows_of

SECRET = "Mr. Smith of Elm Street"


def item(name: str, group: str | None = None) -> Item:
    return Item(id=name, parts={}, target=SECRET, group=group)


def test_rows_hold_the_columns_and_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('a,b,c\n1,"x\ny",z\n')

    assert list(rows_of([str(file)], ["a", "b"])) == [
        {"where": "a.csv row 1", "a": "1", "b": "x\ny"}
    ]


def test_a_file_without_a_column_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"a,c\n1,{SECRET}\n")

    with pytest.raises(DataError, match=r"a\.csv has no columns \['b'\]") as caught:
        list(rows_of([str(file)], ["a", "b"]))

    assert SECRET not in str(caught.value)


def test_a_lost_quote_stops_with_the_name_of_the_file_and_no_text(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f'a,b\n1,"{SECRET}\n2,fine\n')

    with pytest.raises(DataError, match=r"a\.csv") as caught:
        list(rows_of([str(file)], ["a", "b"]))

    assert SECRET not in str(caught.value)


def test_rejects_are_counted_by_reason_and_items_kept_in_order() -> None:
    found = collect([item("b"), Reject("short", "x"), item("a"), Reject("short", "y")], "set")

    assert [each.id for each in found.items] == ["b", "a"]
    assert found.rejects == {"short": 2}


@pytest.mark.parametrize(("num_damaged", "is_refused"), [(1, False), (2, True)])
def test_more_than_one_in_a_hundred_damaged_rows_are_refused(
    num_damaged: int, is_refused: bool
) -> None:
    rows = [item(str(i)) for i in range(100 - num_damaged)]
    damaged = [Reject("no id", None, is_damaged=True)] * num_damaged

    if is_refused:
        with pytest.raises(DataError, match=r"2 of 100 rows are damaged \(no id: 2\)"):
            collect([*rows, *damaged], "set")
    else:
        assert len(collect([*rows, *damaged], "set").items) == 99


def test_of_rows_with_one_id_the_first_counts() -> None:
    found = collect([item("a", "first"), item("b"), item("a", "second")], "set")

    assert [(each.id, each.group) for each in found.items] == [("a", "first"), ("b", None)]
    assert found.rejects == {"id of another row": 1}


def test_a_set_without_items_is_refused_with_the_reasons() -> None:
    with pytest.raises(DataError, match=r"set: no item among 1 rows \(short: 1\)"):
        collect([Reject("short", None)], "set")


def test_a_limit_keeps_those_with_the_smallest_keys_whatever_the_order() -> None:
    items = [item(str(i)) for i in range(50)]
    smallest = sorted(items, key=lambda each: document_key(each.id))[:7]

    forwards = collect(items, "set", 7).items
    backwards = collect(items[::-1], "set", 7).items

    assert {each.id for each in forwards} == {each.id for each in smallest}
    assert list(forwards) == list(backwards)[::-1]
    assert len(collect(items, "set", 60).items) == 50


def test_a_group_in_two_splits_is_refused() -> None:
    first, second = collect([item("a", "p")], "train"), collect([item("b", "p")], "test")

    with pytest.raises(DataError, match="p is in train and in test"):
        check_apart([("train", first), ("test", second)])
    check_apart([("train", first), ("test", collect([item("b")], "test"))])
