"""Where XML files come from, as paths on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from biomamba.data.raw_files import expand_files
from biomamba.runtime.errors import ConfigError

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
        return [path for entry in self.paths for path in expand_files(entry, SUFFIXES)]

    def settings(self) -> dict[str, Any]:
        """Return nothing: the files' names and hashes say all, wherever they lie."""
        return {}
