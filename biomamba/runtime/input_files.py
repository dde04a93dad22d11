"""Read JSON and YAML that others may have written: bounded in size and depth, checked in shape.

A record, a config.json or the settings of a run may come from elsewhere or be damaged. Every such
file is read here, so that a wrong one ends in one sentence that names it: not in a traceback, and
not after minutes or gigabytes.
"""

import json
import math
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from biomamba.runtime.errors import BioMambaError, ConfigError, DataError

MIB = 1 << 20
# Larger than any file that this project or a hub writes: the record of a run has 100 KiB, a
# tokenizer.json with 250,000 entries 20 MiB, the settings of a run 30 KiB.
MAX_JSON_BYTES = 128 * MIB
MAX_YAML_BYTES = MIB
MAX_LINE_BYTES = 64 * MIB
MAX_TABLE_BYTES = 2048 * MIB  # of the answers to a whole benchmark, read at once
MAX_DEPTH = 64
MAX_DIGITS = 40
# Of a YAML file with its aliases written out, as OmegaConf does.
MAX_YAML_NODES = 200_000
TEXT, OBJECT, LIST = (str,), (dict,), (list,)
FIGURE = (int, float, str)  # what is not finite is a word
COUNT = (int, float)
WHOLE, FLAG = (int,), (bool,)
Kinds = tuple[type, ...]
_WORDS = {
    str: "a text",
    dict: "an object",
    list: "a list",
    int: "a number",
    float: "a number",
    bool: "true or false",
}


@dataclass(frozen=True)
class Each:
    """Every value of an object, or every item of a list, has this shape."""

    shape: "Shape"
    is_list: bool = False


# A mapping holds the shapes of some keys, which may be missing or null; others are not judged.
Shape = Kinds | Each | Mapping[str, Any]


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


def check_size(path: Path, max_bytes: int, error: type[BioMambaError] = DataError) -> None:
    """Raise `error` if a file is no plain one of at most `max_bytes`, before another reads it."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path}: is not a plain file")
    if found.st_size > max_bytes:
        raise error(f"{path}: is larger than {max_bytes / MIB:g} MiB, which is not expected of it")


def read_json(
    path: Path,
    shape: Shape | None = None,
    *,
    max_bytes: int = MAX_JSON_BYTES,
    error: type[BioMambaError] = DataError,
) -> Any:
    """Return the content of a JSON file.

    Args:
        path: The file.
        shape: What the content must be; None for anything.
        max_bytes: Its largest size.
        error: Class of the error.

    Raises:
        FileNotFoundError: There is no such file.
        BioMambaError: Of class `error`, naming the file and what was found.
    """
    return parse_json(read_text(path, max_bytes, error), str(path), shape, error=error)


def check_replaceable(path: Path, keys: Collection[str], what: str) -> None:
    """Refuse to write over a file that is not an earlier one of the same kind.

    Args:
        path: The file that will be written.
        keys: Keys that a JSON file of this kind has.
        what: Its kind, for the message.

    Raises:
        ConfigError: Something else is there.
    """
    try:
        content = read_json(path, OBJECT) or {}  # null
    except FileNotFoundError:
        return
    except DataError:
        content = {}
    if not set(keys) <= content.keys():
        raise ConfigError(
            f"output is {path}, which is not {what} and is never replaced; name another file"
        )


def loads(text: str | bytes) -> Any:
    """Return the value of a JSON text as `json.loads` does, with bounds.

    Raises:
        ValueError: It is not JSON, nested deeper than MAX_DEPTH, or holds a number that no record
            can hold, as 1e400 or one of 1,000 digits. `NaN` and `Infinity`, which older records
            have, are read.
    """
    try:
        content = json.loads(text, parse_int=_int, parse_float=_float)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from error
    if _is_deeper(content, MAX_DEPTH):
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return content


def parse_json(
    text: str, where: str, shape: Shape | None = None, *, error: type[BioMambaError] = DataError
) -> Any:
    """Return the value of a JSON text that is at `where`; see `read_json`."""
    try:
        content = loads(text)
    except ValueError as problem:
        raise error(f"{where}: cannot be read as JSON: {problem}") from problem
    if shape is not None:
        check_shape(where, content, shape, error=error)
    return content


def json_lines(
    path: Path,
    shape: Shape = OBJECT,
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
    where: str | Path, value: Any, shape: Shape, *, error: type[BioMambaError] = DataError
) -> None:
    """Raise `error` unless a value has a shape; the text names the key, and shows no value."""
    problem = _problem(value, shape, "")
    if problem is not None:
        raise error(
            f"{where}: {problem}; it is damaged, or another program wrote it: copy it again from "
            "where it came from, or leave its folder out"
        )


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
        _check_yaml_size(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as problem:
        words = " ".join(str(problem).split())
        raise error(f"{path}: cannot be read as YAML: {words}") from problem
    except ValueError as problem:
        raise error(f"{path}: {problem}") from problem


def _check_yaml_size(events: Iterator[yaml.Event]) -> None:
    """Count the values of a YAML text with its aliases written out, and stop early.

    Raises:
        ValueError: There are more than MAX_YAML_NODES, or they are nested deeper than MAX_DEPTH.
    """
    size = _YamlSize()
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            size.open(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size.close()
        elif isinstance(event, yaml.AliasEvent):
            size.repeat(event.anchor)
        elif isinstance(event, yaml.ScalarEvent):
            size.open(event.anchor)
            size.close()


class _YamlSize:
    """Values and levels of the collections that are open, and of those that have an anchor."""

    def __init__(self) -> None:
        self._anchors: dict[str, tuple[int, int]] = {}
        self._opened: list[tuple[str | None, int, int]] = []

    def open(self, anchor: str | None) -> None:
        self._opened.append((anchor, 1, 0))
        self._check_depth(0)

    def close(self) -> None:
        anchor, size, height = self._opened.pop()
        if anchor is not None:
            self._anchors[anchor] = size, height
        self._add(size, height)

    def repeat(self, anchor: str) -> None:
        if anchor not in self._anchors:
            raise ValueError(f"the alias *{anchor} stands for what holds it, or for nothing")
        self._add(*self._anchors[anchor])

    def _add(self, size: int, height: int) -> None:
        if not self._opened:
            return
        anchor, own_size, own_height = self._opened[-1]
        self._opened[-1] = anchor, own_size + size, max(own_height, height + 1)
        if own_size + size > MAX_YAML_NODES:
            raise ValueError(f"holds more than {MAX_YAML_NODES:,} values, aliases written out")
        self._check_depth(height)

    def _check_depth(self, height: int) -> None:
        if len(self._opened) + height > MAX_DEPTH + 1:
            raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:MAX_DIGITS]} is out of range")
    return value


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


def _problem(value: Any, shape: Shape, key: str) -> str | None:
    if isinstance(shape, tuple):
        if value is None:  # what was not known
            return None
        is_right = isinstance(value, shape) and (bool in shape or not isinstance(value, bool))
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
    words = [_WORDS[kind] for kind in kinds] if kinds != WHOLE else ["a whole number"]
    allowed = " or ".join(dict.fromkeys(words))
    found = _WORDS.get(type(value), type(value).__name__)
    return f"{key.lstrip('.') or 'the file'} is {found}, not {allowed}"


# -------------------------------------------------------------------------------------------------
# The shapes of the records that programs write, as far as others read them.
# -------------------------------------------------------------------------------------------------

_GIT: Shape = {"commit": TEXT}
_MACHINE: Shape = {"cpu": TEXT, "gpus": Each((str, dict), is_list=True)}
PROVENANCE: Shape = {
    "argv": LIST,
    "config_sha256": TEXT,
    "data_fingerprint": TEXT,
    "git": _GIT,
    "machine": _MACHINE,
    "checkpoints": Each({"path": TEXT, "sha256": TEXT}),
    "resumes": Each({"argv": LIST, "git": _GIT, "machine": _MACHINE}, is_list=True),
}
RUN: Shape = {
    "provenance": PROVENANCE,
    "data_fingerprint": TEXT,
    "restricted": Each(TEXT, is_list=True),
    "parameters": {"total": COUNT, "trained": COUNT},
    "sources": Each({"num_documents": COUNT, "num_tokens": COUNT}),
    "data": {
        "stores": Each(Each({"newest_year": COUNT}, is_list=True)),
        "tasks": Each({"access": TEXT}),
    },
    "realised": Each({"tokens": COUNT, "share": COUNT, "epochs": COUNT}),
    "before": Each(FIGURE),
    "after": Each(FIGURE),
    "selection": {"step": COUNT, "monitor": TEXT, "figure": FIGURE, "stopped_at_step": COUNT},
    "starts": Each({"end": TEXT, "world_size": COUNT}, is_list=True),
}
_LINE: dict[str, Shape] = {
    "model": TEXT,
    "split": TEXT,
    "metric": TEXT,
    "value": COUNT,
    "low": COUNT,
    "high": COUNT,
    "level": COUNT,
    "provenance": PROVENANCE,
}
RESULT: Shape = {
    **_LINE,
    "source": TEXT,
    "num_documents": COUNT,
    "num_tokens": COUNT,
    "num_bytes": COUNT,
    "first_position": COUNT,
    "end_position": COUNT,
}
TASK_RESULT: Shape = {
    **_LINE,
    "task": TEXT,
    "protocol": TEXT,
    "method": TEXT,
    "n": COUNT,
    "n_groups": COUNT,
    "prompt": TEXT,
    "prompt_fingerprint": TEXT,
    "checkpoint_sha256": TEXT,
    "data_fingerprint": TEXT,
    "minimum_detectable_difference": COUNT,
    "p_value": COUNT,
    "against": TEXT,
    "answer": OBJECT,
    "mcnemar": {"p_value": COUNT},
    "rejects": Each(COUNT),
    "filtered": TEXT,
    "filter_reasons": LIST,
}


def read_run_record(path: Path, error: type[BioMambaError] = DataError) -> dict[str, Any]:
    """Return the run.json of a run without what is null, which was not known.

    Raises:
        FileNotFoundError: There is none.
        BioMambaError: Of class `error`: it cannot be read or is no record of a run.
    """
    record: dict[str, Any] = read_json(path, RUN, error=error)
    return {key: value for key, value in record.items() if value is not None}
