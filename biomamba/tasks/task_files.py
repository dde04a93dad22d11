"""The files that a task names in its configuration."""

from collections.abc import Sequence
from pathlib import Path

from biomamba.data.cleaning.benchmarks.item import hash_files
from biomamba.data.raw_files import expand_files


def named_files(entries: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """Return the files of all entries; `*` in a name stands for all that match.

    Raises:
        DataError: One is missing or of another kind.
    """
    return [path for entry in entries for path in expand_files(entry, suffixes)]


def file_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """Return the sha256 of each file by its name.

    Raises:
        DataError: Two files share a name.
    """
    return {name: digest.removeprefix("sha256:") for name, digest in hash_files(paths).items()}
