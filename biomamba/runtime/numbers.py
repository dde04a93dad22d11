"""Checks of numbers that a user sets: finite, whole, within a range.

Every comparison with NaN is False, so `if x <= 0: raise` lets NaN through, and infinity with it.
The checks here ask what must hold instead. Each message names the key, what is allowed and what was
found.
"""

import sys
from collections.abc import Mapping

from biomamba.runtime.errors import ConfigError

# numpy's global generator takes 32 bits.
MAX_SEED = 2**32 - 1
# Integers beyond are refused by torch, numpy and Arrow, each with an error of its own.
MAX_WHOLE = 2**63 - 1


def check_number(
    name: str,
    value: float | None,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    optional: bool = False,
) -> None:
    """Check that a number is finite and is within the given bounds.

    Args:
        name: Key of the number, for the message.
        value: The number; None is accepted if `optional`.
        above: It must be larger than this.
        at_least: It must not be smaller than this.
        below: It must be smaller than this.
        at_most: It must not be larger than this.
        optional: Accept None.

    Raises:
        ConfigError: The value is no number, not finite or out of bounds.
    """
    if value is None and optional:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_inside = (
        is_number
        and value is not None
        and -sys.float_info.max <= value <= sys.float_info.max  # isfinite fails for 10**400
        and (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (below is None or value < below)
        and (at_most is None or value <= at_most)
    )
    if not is_inside:
        words = {"above": above, "at least": at_least, "below": below, "at most": at_most}
        _refuse(name, value, "a finite number", words, optional=optional)


def check_whole(
    name: str,
    value: int | None,
    *,
    at_least: int = 1,
    at_most: int = MAX_WHOLE,
    optional: bool = False,
) -> None:
    """Check that a number is an integer within the given bounds.

    Args:
        name: Key of the number, for the message.
        value: The number; None is accepted if `optional`.
        at_least: It must not be smaller than this.
        at_most: It must not be larger than this; by default the largest 64-bit integer.
        optional: Accept None.

    Raises:
        ConfigError: The value is no integer or out of bounds.
    """
    if value is None and optional:
        return
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value is None or not at_least <= value <= at_most:
        words = {"at least": at_least, "at most": at_most}
        if at_most == MAX_WHOLE and (not is_whole or value is None or value <= MAX_WHOLE):
            del words["at most"]
        _refuse(name, value, "a whole number", words, optional=optional)


def check_seed(name: str, value: int) -> None:
    """Check that a seed fits into the 32 bits that every generator takes."""
    check_whole(name, value, at_least=0, at_most=MAX_SEED)


def _refuse(
    name: str, value: object, kind: str, words: Mapping[str, float | None], *, optional: bool
) -> None:
    bounds = " and ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)
    link = " of " if bounds.startswith("at") else " "
    allowed = f"{kind}{link}{bounds}".strip() + (", or null" if optional else "")
    raise ConfigError(f"{name} must be {allowed}, found {value!r}")
