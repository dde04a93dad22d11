"""The raw files that a config entry names."""

import re
from collections.abc import Sequence
from pathlib import Path

from biomamba.runtime.errors import DataError


def natural_order(path: Path) -> tuple[str, str]:
    """Return a key that sorts names by the numbers in them: n9999 before n10000.

    Names whose numbers have the same width, and names without one, keep the order of their
    characters. Numbers of more than 20 digits count as text.
    """
    return re.sub(r"[0-9]+", lambda found: found[0].zfill(20), path.name), path.name


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
