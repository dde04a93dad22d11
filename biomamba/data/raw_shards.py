"""Raw files: which ones a config entry names, their expected hashes, and a share of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from biomamba.runtime.errors import ConfigError, DataError

# -------------------------------------------------------------------------------------------------
# The raw files that a config entry names.
# -------------------------------------------------------------------------------------------------


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


# -------------------------------------------------------------------------------------------------
# Expected hashes of raw files, as `sha256sum` and PhysioNet write them.
# -------------------------------------------------------------------------------------------------

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *]?(\S.*)")  # PhysioNet puts one blank


@dataclass(frozen=True)
class Checksums:
    """The content of one SHA256SUMS file.

    Attributes:
        path: Where it was read.
        digests: By absolute path; the file lists paths relative to its own folder.
    """

    path: Path
    digests: dict[Path, str]

    @classmethod
    def read(cls, path: Path) -> "Checksums":
        """Read a file of lines `hash name`.

        Raises:
            DataError: If the file cannot be read, lists nothing or has a line of another form.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the checksums {path}: {error}") from error
        digests: dict[Path, str] = {}
        for number, line in enumerate(lines, start=1):
            found = _LINE.fullmatch(line)
            if found is None:
                raise DataError(
                    f"{path}:{number} is no checksum; expected 64 hex digits and a name"
                )
            digests[(path.parent / found[2]).resolve()] = found[1].lower()
        if not digests:
            raise DataError(f"{path} lists no checksum; make it with sha256sum")
        return cls(path, digests)

    def check(self, path: Path, digest: str) -> None:
        """Compare the hash of a file with the one listed.

        Raises:
            DataError: If it differs or the file is not listed.
        """
        expected = self.digests.get(path.resolve())
        if expected is None:
            raise DataError(f"{self.path} does not list {path}; add it with sha256sum")
        if expected != digest:
            raise DataError(
                f"{path} is not the file that {self.path} lists: its sha256 is {digest}, listed is "
                f"{expected}; fetch it again"
            )


# -------------------------------------------------------------------------------------------------
# A share of the raw shards, for jobs that prepare one set side by side.
# -------------------------------------------------------------------------------------------------

T = TypeVar("T")
_PATTERN = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"part is {self}; use 1/N to N/N")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read a part such as `3/16`.

        Raises:
            ConfigError: If the text names no part.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ConfigError(f"part is {text!r}; use NUMBER/COUNT, for example 3/16")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this part; every item is in one part of `count`."""
        return items[self.number - 1 :: self.count]
