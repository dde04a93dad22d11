"""The raw files that a config entry names."""

from collections.abc import Sequence
from pathlib import Path

from biomamba.runtime.errors import DataError


def expand_files(entry: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the file of an entry, or all in sorted order that a name with `*` matches.

    Raises:
        DataError: If a file is missing or its name ends in none of the suffixes.
    """
    pattern = Path(entry)
    is_pattern = "*" in pattern.name
    paths = sorted(pattern.parent.glob(pattern.name)) if is_pattern else [pattern]
    if not paths:
        raise DataError(f"no raw file matches {entry}")
    for path in paths:
        if not path.is_file():
            raise DataError(f"raw file {path} does not exist")
        if not path.name.endswith(tuple(suffixes)):
            raise DataError(f"raw file {path} is of no known kind; known: {', '.join(suffixes)}")
    return paths
