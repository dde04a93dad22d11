"""Expected hashes of raw files, as `sha256sum` and PhysioNet write them."""

import re
from dataclasses import dataclass
from pathlib import Path

from biomamba.runtime.errors import DataError

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
