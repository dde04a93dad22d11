"""Say in which settings two records differ."""

from collections.abc import Mapping
from typing import Any


def settings_difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return every difference by its dotted key, empty if there is none."""
    mine, its = _flatten(stored), _flatten(asked)
    return "; ".join(
        f"{key} is {mine.get(key)!r}, asked for {its.get(key)!r}"
        for key in sorted(mine.keys() | its.keys())
        if mine.get(key) != its.get(key)
    )


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        is_branch = isinstance(value, dict) and value
        flat |= _flatten(value, f"{prefix}{key}.") if is_branch else {prefix + key: value}
    return flat
