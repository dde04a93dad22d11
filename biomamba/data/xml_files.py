"""Where XML files come from, as paths on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from biomamba.runtime.errors import ConfigError, DataError

SUFFIXES = (".xml", ".xml.gz")


class FileSource(Protocol):
    """A set of files."""

    def files(self) -> list[Path]:
        """Return the files, after fetching them if needed."""

    def settings(self) -> dict[str, Any]:
        """Return what identifies the source beyond names and hashes of its files."""


@dataclass(frozen=True)
class LocalFiles:
    """XML files on this machine.

    Attributes:
        paths: Paths; a file name with `*` stands for all matching files.
    """

    paths: list[str]

    def __post_init__(self) -> None:
        if not self.paths:
            raise ConfigError("paths is empty; name at least one XML file")

    def files(self) -> list[Path]:
        """Return the files.

        Raises:
            DataError: If a file is missing or not named as XML.
        """
        return [path for entry in self.paths for path in _expand(entry)]

    def settings(self) -> dict[str, Any]:
        """Return nothing: the files' names and hashes say all, wherever they lie."""
        return {}


def _expand(entry: str) -> list[Path]:
    pattern = Path(entry)
    found = sorted(pattern.parent.glob(pattern.name)) if "*" in pattern.name else [pattern]
    if not found:
        raise DataError(f"no XML file matches {entry}")
    for path in found:
        if not path.is_file():
            raise DataError(f"XML file {path} does not exist")
        if not path.name.endswith(SUFFIXES):
            raise DataError(f"{path} is not named as XML; known: {', '.join(SUFFIXES)}")
    return found
