"""Items: what a bootstrap draws."""

from biomamba.tasks.prompt import Item, Items


def test_an_item_without_a_group_is_drawn_alone() -> None:
    assert Item(id="i1", parts={}, target="yes").unit == "i1"


def test_items_of_a_group_are_drawn_together() -> None:
    assert {Item(id=f"i{n}", parts={}, target="yes", group="g").unit for n in range(3)} == {"g"}


def test_items_do_not_share_their_counts() -> None:
    first, second = Items([]), Items([])
    first.rejects["no question"] += 1

    assert second.rejects.total() == 0
