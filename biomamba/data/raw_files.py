"""The raw files that a config entry names."""

import re
from collections.abc import Sequence
from pathlib import Path

from biomamba.runtime.errors import DataError


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """Return a key that sorts names by the numbers in them: n9999 before n10000.

    Names whose numbers have the same width come in the order of their characters.
    """
    # Text and digits alternate from a text on, so that equal places have equal types.
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if part.isdigit() else part for part in parts], path.name


def expand_files(entry: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the file of an entry, or all that a name with `*` matches, with numbers in order.

    Raises:
        DataError: If a file is missing or its name ends in none of the suffixes.
    """
    pattern = Path(entry)
    is_pattern = "*" in pattern.name
    paths = (
        sorted(pattern.parent.glob(pattern.name), key=natural_order) if is_pattern else [pattern]
    )
    if not paths:
        raise DataError(f"no raw file matches {entry}")
    for path in paths:
        if not path.is_file():
            raise DataError(f"raw file {path} does not exist")
        if not path.name.endswith(tuple(suffixes)):
            raise DataError(f"raw file {path} is of no known kind; known: {', '.join(suffixes)}")
    return paths
