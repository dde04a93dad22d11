"""Shapes of records."""

from typing import Any

import pytest

from biomamba.reporting.shapes import COUNT, TEXT, Each, Shape, check_shape
from biomamba.runtime.errors import DataError

SHAPE: Shape = {"a": {"b": TEXT}, "c": Each({"d": COUNT}), "e": Each(COUNT, is_list=True)}


@pytest.mark.parametrize(
    "value",
    [{}, {"a": None}, {"a": {"b": None}}, {"a": {"b": "x"}, "c": {"k": {"d": 1}}, "e": [1, 2.5]}],
)
def test_what_is_missing_or_null_is_allowed(value: Any) -> None:
    check_shape("f", value, SHAPE)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "the file is a list, not an object"),
        ({"a": 3}, "a is a number, not an object"),
        ({"a": {"b": 3}}, "a.b is a number, not a text"),
        ({"c": []}, "c is a list, not an object"),
        ({"c": {"k": None}}, "c.k is NoneType, not an object"),
        ({"c": {"k": {"d": True}}}, "c.k.d is bool, not a number"),
        ({"e": [1, "x"]}, "e.1 is a text, not a number"),
        ({"e": {"x": 1}}, "e is an object, not a list"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(value: Any, told: str) -> None:
    with pytest.raises(DataError, match=f"f: damaged, or of another program: {told}; allowed"):
        check_shape("f", value, SHAPE)
