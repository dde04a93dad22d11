"""Read JSON and YAML that others may have written: bounded in size and depth, checked in shape.

A record, a config.json or the settings of a run may come from elsewhere or be damaged. Every such
file is read here, so that a wrong one ends in one sentence that names it: not in a traceback, and
not after minutes or gigabytes.
"""

import json
import os
import stat
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from biomamba.runtime.errors import BioMambaError, DataError

MIB = 1 << 20
# Larger than any file that this project or a hub writes: the record of a run has 100 KiB, a
# tokenizer.json with 250,000 entries 20 MiB, the settings of a run 30 KiB.
MAX_JSON_BYTES = 128 * MIB
MAX_YAML_BYTES = MIB
MAX_LINE_BYTES = 64 * MIB
MAX_DEPTH = 64
# Of a YAML file with its aliases written out, as OmegaConf does.
MAX_YAML_NODES = 200_000

_SCALARS: dict[Any, tuple[type, ...]] = {float: (float, int), type(None): (type(None),)}


def read_text(
    path: Path, max_bytes: int = MAX_JSON_BYTES, error: type[BioMambaError] = DataError
) -> str:
    """Return the text of a UTF-8 file of at most `max_bytes`.

    Raises:
        FileNotFoundError: There is no such file.
        BioMambaError: Of class `error`: it cannot be read, is no plain file, is larger, or is not
            UTF-8.
    """
    try:
        # A pipe would block for ever where a file is expected.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise error(f"{path}: is not a plain file")
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from problem
    if len(content) > max_bytes:
        raise error(f"{path}: is larger than {max_bytes / MIB:g} MiB, which is not expected of it")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: is not UTF-8 text ({problem.reason})") from problem


def read_json(
    path: Path,
    shape: Any = Any,
    *,
    max_bytes: int = MAX_JSON_BYTES,
    error: type[BioMambaError] = DataError,
) -> Any:
    """Return the content of a JSON file.

    Args:
        path: The file.
        shape: Annotation that the content must fit: a TypedDict, `dict[str, Any]`, `list[int]`,
            ... A TypedDict may have further keys.
        max_bytes: Its largest size.
        error: Class of the error.

    Raises:
        FileNotFoundError: There is no such file.
        BioMambaError: Of class `error`, naming the file and what was found.
    """
    return parse_json(read_text(path, max_bytes, error), str(path), shape, error=error)


def parse_json(
    text: str, where: str, shape: Any = Any, *, error: type[BioMambaError] = DataError
) -> Any:
    """Return the value of a JSON text that stands at `where`; see `read_json`."""
    try:
        content = json.loads(text)
    except RecursionError as problem:
        raise error(f"{where}: is nested deeper than {MAX_DEPTH} levels") from problem
    except ValueError as problem:
        raise error(f"{where}: is not JSON: {problem}") from problem
    if _is_deeper(content, MAX_DEPTH):
        raise error(f"{where}: is nested deeper than {MAX_DEPTH} levels")
    check_shape(content, shape, where, error=error)
    return content


def json_lines(
    path: Path,
    shape: Any = dict[str, Any],
    *,
    max_bytes: int = MAX_LINE_BYTES,
    error: type[BioMambaError] = DataError,
) -> Iterator[Any]:
    """Yield the value of every line of a file of JSON lines; see `read_json`."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(max_bytes + 1):
                number += 1
                where = f"{path} line {number}"
                if len(line) > max_bytes:
                    raise error(f"{where}: is longer than {max_bytes / MIB:g} MiB")
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as problem:
                    raise error(f"{where}: is not UTF-8 text ({problem.reason})") from problem
                yield parse_json(text, where, shape, error=error)
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from problem


def check_shape(
    content: Any, shape: Any, where: str, *, error: type[BioMambaError] = DataError
) -> None:
    """Raise `error` unless a value fits an annotation; the text names the key within `where`."""
    problem = _misfit(content, shape, "")
    if problem is not None:
        raise error(f"{where}: {problem}")


def check_yaml(path: Path, *, error: type[BioMambaError] = DataError) -> None:
    """Raise `error` if a YAML file is too large to be loaded, or would be with its aliases.

    What it means is left to OmegaConf, whose loader knows no tags of Python objects.

    Raises:
        FileNotFoundError: There is no such file.
        BioMambaError: Of class `error`: as `read_text`, or not YAML, nested deeper than MAX_DEPTH,
            more than MAX_YAML_NODES values.
    """
    text = read_text(path, MAX_YAML_BYTES, error)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        num_nodes = 0 if root is None else _YamlSize().of(root, 0)
    except (RecursionError, OverflowError) as problem:
        raise error(f"{path}: is nested deeper than {MAX_DEPTH} levels") from problem
    except yaml.YAMLError as problem:
        raise error(f"{path}: is not YAML: {' '.join(str(problem).split())}") from problem
    if num_nodes > MAX_YAML_NODES:
        raise error(f"{path}: holds more than {MAX_YAML_NODES:,} values, with aliases written out")


class _YamlSize:
    """Counts the values of a YAML file with aliases written out, each node once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}

    def of(self, node: yaml.Node, depth: int) -> int:
        """Return the number of values below a node.

        Raises:
            OverflowError: It is nested deeper than MAX_DEPTH, as a node that holds itself is.
        """
        return self._measured(node, depth)[0]

    def _measured(self, node: yaml.Node, depth: int) -> tuple[int, int]:
        if depth > MAX_DEPTH:
            raise OverflowError
        if id(node) not in self._known:
            children: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                children = [child for pair in node.value for child in pair]
            elif isinstance(node, yaml.SequenceNode):
                children = node.value
            measured = [self._measured(child, depth + 1) for child in children]
            size = 1 + sum(found[0] for found in measured)
            self._known[id(node)] = size, 1 + max((found[1] for found in measured), default=0)
        size, height = self._known[id(node)]
        if depth + height > MAX_DEPTH:
            raise OverflowError
        return size, height


def _is_deeper(content: Any, limit: int) -> bool:
    """Say whether lists and objects are nested in more than `limit` levels; not recursive."""
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(limit):
        if not level:
            return False
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
    return bool(level)


def _misfit(value: Any, shape: Any, key: str) -> str | None:
    """Return why a value does not fit an annotation; None if it does."""
    if typing.is_typeddict(shape):
        return _misfit_of_keys(value, shape, key)
    origin, arguments = typing.get_origin(shape), typing.get_args(shape)
    if origin in (typing.Required, typing.NotRequired):
        return _misfit(value, arguments[0], key)
    if origin in (typing.Union, types.UnionType):
        problems = [_misfit(value, option, key) for option in arguments]
        return None if None in problems else _longest(problems)
    if origin in (list, dict) and isinstance(value, origin):
        children = value.items() if isinstance(value, dict) else enumerate(value)
        found = (_misfit(child, arguments[-1], _join(key, name)) for name, child in children)
        return next((problem for problem in found if problem), None)
    if origin is typing.Literal:
        is_fit = any(type(value) is type(option) and value == option for option in arguments)
    else:
        is_fit = shape is Any or _is_scalar(value, origin or shape)
    return None if is_fit else _found(value, shape, key)


def _is_scalar(value: Any, kind: Any) -> bool:
    """Say whether a value is of a class; a bool is no number, an int is a valid float."""
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, _SCALARS.get(kind, (kind,)))


def _misfit_of_keys(value: Any, shape: Any, key: str) -> str | None:
    if not isinstance(value, dict):
        return _found(value, dict, key)
    for name in sorted(shape.__required_keys__ - value.keys()):
        return f"{_join(key, name)} is missing"
    for name, hint in typing.get_type_hints(shape).items():
        problem = _misfit(value[name], hint, _join(key, name)) if name in value else None
        if problem:
            return problem
    return None


def _longest(problems: list[str | None]) -> str:
    """Return the problem of the option that was followed the furthest into the value."""
    return max((problem for problem in problems if problem), key=lambda text: len(text.split()[0]))


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _found(value: Any, shape: Any, key: str) -> str:
    text = repr(value) if isinstance(value, str | int | float | type(None)) else ""
    found = f"{type(value).__name__} {text[:40]}".strip() if text else _kind(value)
    return f"{key or 'its content'} must be {_described(shape)}, found {found}"


def _kind(value: Any) -> str:
    name = type(value).__name__
    return {"dict": "an object", "list": "a list"}.get(name, name)


def _described(shape: Any) -> str:
    if typing.is_typeddict(shape) or shape is dict or typing.get_origin(shape) is dict:
        return "an object"
    if typing.get_origin(shape) is list:
        return "a list"
    names: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
    }
    if isinstance(shape, type):
        return names.get(shape, "null" if shape is type(None) else shape.__name__)
    if typing.get_origin(shape) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(shape)))
    return " or ".join(_described(option) for option in typing.get_args(shape)) or str(shape)
