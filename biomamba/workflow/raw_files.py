"""Whether the files that a chain starts from are there."""

from collections.abc import Mapping
from pathlib import Path

from biomamba.runtime.errors import DataError


def check_raw_files(files: Mapping[str, str], folder: str | None) -> None:
    """Look for all files of a chain.

    Args:
        files: Patterns below the folder, and where to get each.
        folder: The raw folder.

    Raises:
        DataError: Some are missing; all of them are named.
    """
    missing = [
        f"{pattern}: {source}"
        for pattern, source in files.items()
        if folder is None or not any(Path(folder).glob(pattern))
    ]
    if missing:
        where = folder or "a folder yet to be named"
        raise DataError(
            f"{len(missing)} raw files of {len(files)} are missing below {where}:\n  "
            + "\n  ".join(missing)
            + "\n"
            "Put them there, or set paths.raw_dir=<folder>; chain=embedded needs no files"
        )
