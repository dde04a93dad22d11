"""Numbers of a user: finite, whole and within bounds, or refused by key."""

import math
from typing import Any

import numpy as np
import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import MAX_SEED, check_number, check_seed, check_whole


@pytest.mark.parametrize(
    "bounds", [{}, {"above": 0}, {"at_least": 0}, {"below": 1}, {"at_most": 1}]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1", True, [1]])
def test_what_is_no_finite_number_passes_no_bound(value: Any, bounds: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"^lr must be a finite number"):
        check_number("lr", value, **bounds)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"above": 0}, 1e-300, 0),
        ({"at_least": 0}, 0, -1e-300),
        ({"below": 1}, 0.999, 1),
        ({"at_most": 1}, 1, 1.001),
        ({"above": 0, "at_most": 1}, np.float64(0.5), 1.5),
    ],
)
def test_bounds_of_numbers(bounds: dict[str, float], inside: float, outside: float) -> None:
    check_number("x", inside, **bounds)
    with pytest.raises(ConfigError, match=rf"x must be .*, found {outside}"):
        check_number("x", outside, **bounds)


@pytest.mark.parametrize("value", [0, 2**63, 1.0, math.nan, math.inf, True, None, "3"])
def test_what_is_no_whole_number_within_64_bits_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="steps must be a whole number of at least 1"):
        check_whole("steps", value)


def test_null_is_a_number_only_where_it_is_optional() -> None:
    check_whole("steps", None, optional=True)
    check_number("lr", None, above=0, optional=True)
    with pytest.raises(ConfigError, match="or null, found nan"):
        check_number("lr", math.nan, above=0, optional=True)


def test_seeds_have_32_bits() -> None:
    check_seed("seed", 0)
    check_seed("seed", MAX_SEED)
    for value in (-1, MAX_SEED + 1):
        with pytest.raises(ConfigError, match=f"at least 0 and at most {MAX_SEED}, found {value}"):
            check_seed("seed", value)
