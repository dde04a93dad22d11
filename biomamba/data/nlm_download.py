"""PubMed files: local ones, or a mirror of the NLM server checked against its MD5 files."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin

from rich.console import Console
from rich.progress import track

from biomamba.data.raw_shards import expand_files, natural_order
from biomamba.data.remote import Patience, fetch_bytes, fetch_file
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import folder_lock, move_into_place, write_file
from biomamba.runtime.numbers import check_whole

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"pubmed\d\dn\d{4,5}\.xml\.gz")
_LINK = re.compile(rf'href="(?:[^"]*/)?({_NAME.pattern})"', re.IGNORECASE)
_MD5 = re.compile(r"MD5\s*\(([^)]*)\)\s*=\s*([0-9a-fA-F]{32})\s*")
_HASH_BLOCK_BYTES = 1 << 20
_DOWNLOADS = 2


@dataclass(frozen=True)
class NlmMirror:
    """The files of PubMed, fetched into a folder where they are not there yet.

    A file that is there and agrees with its MD5 is kept; a partial one is continued.

    Attributes:
        base_url: Folder with the parts, https or http; a path on this machine is read in place.
        folder: Where the files are kept, one folder per part; not used with a path.
        parts: Folders under `base_url`.
        max_files: Only the first files of each part, for a trial; None for all.
        patience: How long to bear with the server.
    """

    base_url: str
    folder: str
    parts: list[str] = field(default_factory=lambda: ["baseline", "updatefiles"])
    max_files: int | None = None
    patience: Patience = Patience()  # noqa: RUF009

    def __post_init__(self) -> None:
        if "://" in self.base_url and not self.base_url.startswith(("https://", "http://")):
            raise ConfigError(f"base_url is {self.base_url!r}; use https, http or a path")
        if not self.parts:
            raise ConfigError("parts is empty; use baseline, updatefiles or both")
        strange = [part for part in self.parts if not re.fullmatch(r"\w+", part)]
        if strange:
            raise ConfigError(f"parts {strange} are no plain folder names")
        check_whole("max_files", self.max_files, optional=True)

    def files(self) -> list[Path]:
        """Return the files, complete and checked; progress goes to stderr.

        Raises:
            DataError: If the server refuses or keeps failing, a part lists no files, or a file
                does not agree with its MD5.
        """
        is_remote = "://" in self.base_url
        return [path for part in self.parts for path in self._part(part, is_remote=is_remote)]

    def settings(self) -> dict[str, Any]:
        """Return nothing: the files' names and hashes say all, wherever they came from."""
        return {}

    def _part(self, part: str, *, is_remote: bool) -> list[Path]:
        if not is_remote:
            folder = Path(self.base_url) / part
            names = self._chosen([p.name for p in folder.glob("*.xml.gz")], str(folder))
            return [check_file(folder / name) for name in _tracked(names, f"check {part}")]
        url = urljoin(self.base_url.rstrip("/") + "/", f"{part}/")
        index = fetch_bytes(url, self.patience).decode("utf-8", "replace")
        names = self._chosen(_LINK.findall(index), url)
        folder = Path(self.folder) / part
        with folder_lock(folder, "fetching into"):
            return [
                self._obtain(url + name, folder / name) for name in _tracked(names, f"fetch {part}")
            ]

    def _chosen(self, listed: list[str], place: str) -> list[str]:
        names = sorted(
            {name for name in listed if _NAME.fullmatch(name)},
            key=lambda name: natural_order(Path(name)),
        )
        if not names:
            raise DataError(
                f"{place} lists no file such as pubmed26n0001.xml.gz; check the address, or leave "
                "the part out"
            )
        return names[: self.max_files]

    def _obtain(self, url: str, path: Path) -> Path:
        record = _record_path(path)
        if path.is_file() and record.is_file() and _agrees(path, record.read_bytes()):
            return path
        content = fetch_bytes(f"{url}.md5", self.patience)
        parse_md5(content, path.name)
        if not (path.is_file() and _agrees(path, content)):
            self._download(url, path, content)
        write_file(record, content)
        return path

    def _download(self, url: str, path: Path, record: bytes) -> None:
        partial = path.with_name(f"{path.name}.part")
        for _ in range(_DOWNLOADS):
            fetch_file(url, partial, self.patience)
            if partial.is_file() and md5_of(partial) == parse_md5(record, path.name):
                move_into_place(partial, path)
                return
            _LOG.warning("%s does not agree with its MD5; fetching it again", url)
            partial.unlink(missing_ok=True)
        raise DataError(
            f"{url} does not agree with its MD5 file, also when fetched again; it may be about to "
            "be replaced, run again later"
        )


def check_file(path: Path) -> Path:
    """Return the path of a file that agrees with the MD5 file beside it.

    Raises:
        DataError: If it does not, or there is no MD5 file.
    """
    record = _record_path(path)
    if not record.is_file():
        raise DataError(f"{path} has no {record.name} beside it; copy that too")
    if not _agrees(path, record.read_bytes()):
        raise DataError(f"{path} does not agree with {record.name}; copy the file again")
    return path


def parse_md5(content: bytes, name: str) -> str:
    """Return the hash in an MD5 file, whose content is `MD5(name)= hash`.

    Raises:
        DataError: If it has another form or is of another file.
    """
    found = _MD5.fullmatch(content.decode("ascii", "replace").strip())
    if found is None or found[1] != name:
        raise DataError(
            f"the MD5 file of {name} holds {content[:80]!r}; expected 'MD5({name})= ' and 32 hex "
            "digits"
        )
    return found[2].lower()


def md5_of(path: Path) -> str:
    """Hash the content of a file."""
    digest = md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.md5")


def _agrees(path: Path, record: bytes) -> bool:
    return md5_of(path) == parse_md5(record, path.name)


def _tracked(names: list[str], description: str) -> Iterator[str]:
    yield from track(names, description, console=Console(stderr=True))


# -------------------------------------------------------------------------------------------------
# Where XML files come from, as paths on this machine.
# -------------------------------------------------------------------------------------------------

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
        """Return nothing: the files' names and hashes say all, wherever they are."""
        return {}
