"""Values against annotations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Optional, Union

import pytest
import torch

from biomamba.config.annotations import UNRESOLVED, describe, fits, parameter_hints
from biomamba.runtime.errors import ConfigError

FITTING = [
    (1, int),
    (1, float),
    (1.0, float),
    (True, bool),
    ("a", str),
    (None, None | int),
    (1, Optional[int]),  # noqa: UP045
    (0.5, Union[int, float]),  # noqa: UP007
    ("a", Literal["a", "b"]),
    ([1, 2], list[int]),
    ([], list[str]),
    (["a"], Sequence[str]),
    ([0.9, 0.999], tuple[float, float]),
    ([1, 2, 3], tuple[int, ...]),
    ({"a": 0.5}, dict[str, float]),
    ({"a": [1]}, Mapping[str, list[int]]),
    ([1, "a"], list),
    ("anything", Any),
    (1, Callable[[], int]),
    (UNRESOLVED, int),
    ({"_target_": "x"}, ConfigError),
    ([0.9, 0.999], tuple[float | torch.Tensor, float | torch.Tensor]),
]
NOT_FITTING = [
    (1.0, int),
    (True, int),
    (True, float),
    ("1", int),
    (1, str),
    (None, int),
    ("1", int | None),
    ("c", Literal["a", "b"]),
    ("a", list[str]),
    ([1, "2"], list[int]),
    ([0.9], tuple[float, float]),
    (["a", 1], tuple[str, ...]),
    ({"a": "0.5"}, dict[str, float]),
    ([1], dict[str, int]),
    ("chunked", ConfigError),
]


@pytest.mark.parametrize(("value", "hint"), FITTING)
def test_fitting_value_is_accepted(value: Any, hint: Any) -> None:
    assert fits(value, hint)


@pytest.mark.parametrize(("value", "hint"), NOT_FITTING)
def test_other_value_is_refused(value: Any, hint: Any) -> None:
    assert not fits(value, hint)


def test_annotations_are_described_as_written() -> None:
    assert describe(int) == "int"
    assert describe(list[str]) == "list[str]"
    assert describe(int | None) == "int | None"


def test_annotations_that_do_not_resolve_are_ignored() -> None:
    def function(a: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
        """Do nothing."""

    assert parameter_hints(function) == {}
