"""Names that become part of a folder or file name."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from biomamba.config.tree import select

# A file beside it may add a suffix: 255 bytes is the longest name of the usual file systems.
MAX_BYTES = 200
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]*")
_RULE = (
    f"a plain name of 1 to {MAX_BYTES} of the characters A-Z a-z 0-9 _ . + = , @ - that begins "
    "with a letter, digit or _"
)
# Keys of mappings from names: of stores, files of answers, pools of documents.
_NAMED = ("corpora", "sources", "tasks", "data.sources", "data.corpora", "data.tasks")
_NAMED_BELOW = ("cleaning.firewall.benchmarks", "data.cleaning.firewall.benchmarks")
_PATHS = ("paths.run_dir", "paths.data_dir", "output")


def name_problems(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per name of a config that cannot be a part of a path, and per such path.

    Args:
        tree: The config as plain values; what could not be resolved is left aside.
    """
    for key in ("run_id", "name"):
        if key in tree and tree[key] is not None:
            yield from _problem(tree[key], f"{key}:", has_folders=key == "name")
    for key in (*_NAMED, *_NAMED_BELOW):
        names = select(tree, key)
        for name in names if isinstance(names, dict) else ():
            if not str(name).startswith("_"):
                yield from _problem(name, f"{key}: a name in it")
    callbacks = tree.get("callbacks")
    names = callbacks if isinstance(callbacks, dict) else ()
    for key in (*_PATHS, *(f"callbacks.{name}.folder" for name in names)):
        yield from _path_problem(select(tree, key), key)


def _problem(value: Any, key: str, *, has_folders: bool = False) -> Iterator[str]:
    if not isinstance(value, str):
        return
    parts = value.split("/") if has_folders else [value]
    if not all(_NAME.fullmatch(part) and len(part) <= MAX_BYTES for part in parts):
        rule = f"{_RULE}; several may be joined by /" if has_folders else _RULE
        yield f"{key} must be {rule}, found {_shown(value)}"


def _path_problem(value: Any, key: str) -> Iterator[str]:
    if not isinstance(value, str):
        return
    if not value.strip() or not value.isprintable() or value.startswith("-") or "${" in value:
        yield f"{key}: must be a path without control characters, found {_shown(value)}"
    elif key == "paths.run_dir" and PurePath(value).name in ("", ".."):
        yield f"{key}: must be a folder of its own for the run, found {_shown(value)}"
    elif any(len(part.encode()) > MAX_BYTES for part in PurePath(value).parts):
        yield f"{key}: has a part of more than {MAX_BYTES} bytes, found {_shown(value)}"


def _shown(value: str) -> str:
    return repr(value if len(value) <= 60 else f"{value[:60]}...")
