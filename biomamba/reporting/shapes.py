"""What the values of a record must be, level by level; what is damaged is named by its key."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomamba.runtime.errors import DataError

TEXT, OBJECT, LIST = (str,), (dict,), (list,)
FIGURE = (int, float, str)  # what is not finite is a word
COUNT = (int, float)

Kinds = tuple[type, ...]
_WORDS = {str: "a text", dict: "an object", list: "a list", int: "a number", float: "a number"}


@dataclass(frozen=True)
class Each:
    """Every value of an object, or every item of a list, has this shape."""

    shape: "Shape"
    is_list: bool = False


Shape = Kinds | Each | Mapping[str, Any]  # a mapping: shapes of some keys, which may be missing


def check_shape(place: str | Path, value: Any, shape: Shape) -> None:
    """Refuse a value that is not what a program of this package writes.

    Raises:
        DataError: It names `place` and the key.
    """
    problem = _problem(value, shape, "")
    if problem is not None:
        raise DataError(
            f"{place}: damaged, or of another program: {problem}; allowed is what biomamba wrote: "
            "take it from there again, or leave the folder out of runs"
        )


def _problem(value: Any, shape: Shape, key: str) -> str | None:
    if isinstance(shape, tuple):
        if value is None:  # what was not known
            return None
        is_right = isinstance(value, shape) and not isinstance(value, bool)
        return None if is_right else _wrong(key, value, shape)
    if isinstance(shape, Each):
        return _problem_of_each(value, shape, key)
    if not isinstance(value, dict):
        return _wrong(key, value, OBJECT)
    known = [name for name in shape if value.get(name) is not None]
    told = (_problem(value[name], shape[name], f"{key}.{name}") for name in known)
    return next((problem for problem in told if problem), None)


def _problem_of_each(value: Any, shape: Each, key: str) -> str | None:
    kind = list if shape.is_list else dict
    if not isinstance(value, kind):
        return _wrong(key, value, (kind,))
    items = enumerate(value) if isinstance(value, list) else value.items()
    told = (_problem(item, shape.shape, f"{key}.{name}") for name, item in items)
    return next((problem for problem in told if problem), None)


def _wrong(key: str, value: Any, kinds: Kinds) -> str:
    allowed = " or ".join(dict.fromkeys(_WORDS[kind] for kind in kinds))
    found = _WORDS.get(type(value), type(value).__name__)
    return f"{key.lstrip('.') or 'the file'} is {found}, not {allowed}"
