"""Differences between records."""

from biomamba.data.store.format import settings_difference


def test_equal_settings_differ_in_nothing() -> None:
    assert settings_difference({"a": {"b": [1], "c": {}}}, {"a": {"c": {}, "b": [1]}}) == ""


def test_every_difference_is_named_by_its_dotted_key() -> None:
    stored = {"a": {"b": 1, "same": 0}, "gone": "x", "tree": {"leaf": 1}, "empty": {}}
    asked = {"a": {"b": 2, "same": 0}, "new": None, "tree": None, "empty": {"c": 1}}
    assert settings_difference(stored, asked).split("; ") == [
        "a.b is 1, asked for 2",
        "empty is {}, asked for None",
        "empty.c is None, asked for 1",
        "gone is 'x', asked for None",
        "tree.leaf is 1, asked for None",
    ]


def test_a_key_that_is_absent_or_null_is_the_same() -> None:
    assert settings_difference({"a": None}, {}) == ""
