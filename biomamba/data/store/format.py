"""The files of a token store: records, checksums, atomic writing, and differences of settings."""

import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from biomamba.config.annotations import build_record
from biomamba.data.document import FACTS_KIND, SPLITS, read_years
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import TEMPORARY_SUFFIX, read_sealed, sha256_of, write_sealed

# -------------------------------------------------------------------------------------------------
# The records that make a token store trustworthy: one per shard, one for the whole.
#
# A store is a folder of one corpus under one tokenizer:
#
#     NNNNN.{train,val,test}.bin   token ids, little endian, every document ends with the EOD id
#     NNNNN.{train,val,test}.idx   one INDEX_DTYPE record per document
#     NNNNN.{train,val,test}.facts year and MeSH descriptors of the documents, where something is
#                                  known of one of them, see document.py
#     NNNNN.json                   ShardRecord, written last of its shard: the commit point
#     MANIFEST.json                Manifest, written last of all
#     staging/                     what the decisions about the whole set need, see staging.py
#
# A split without documents in a shard has no files there.
# -------------------------------------------------------------------------------------------------

FORMAT_VERSION = 2
TOKEN_DTYPES = ("uint16", "uint32", "<u2", "<u4")
# Files are in the folder of the store itself, whatever a manifest from elsewhere says.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MANIFEST_NAME = "MANIFEST.json"
# end: offset after the document in tokens, EOD included; num_bytes: UTF-8 bytes of its text.
INDEX_DTYPE = np.dtype([("end", "<u8"), ("num_bytes", "<u4"), ("key", "<u8")])


@dataclass(frozen=True)
class FileRecord:
    """Size and hash of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Totals:
    """What one split holds: documents, tokens with their EOD, UTF-8 bytes of the texts."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.documents + other.documents,
            self.tokens + other.tokens,
            self.bytes + other.bytes,
        )


@dataclass(frozen=True)
class ShardRecord:
    """The commit record of one token shard.

    Attributes:
        raw_name: Name of the raw shard.
        raw_fingerprint: What identified its content.
        settings: Everything else that decided the content, apart from the other documents.
        decisions: Hash of what was decided about each document in view of the whole set.
        totals: Per split.
        rejects: Rows that are not in the store, by reason.
        num_damaged: How many of the rejects were technical faults.
        files: Token and index files by name.
    """

    raw_name: str
    raw_fingerprint: str
    settings: dict[str, Any]
    decisions: str
    totals: dict[str, Totals]
    rejects: dict[str, int]
    num_damaged: int
    files: dict[str, FileRecord]

    def write(self, path: Path) -> None:
        """Commit the shard."""
        write_sealed(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "ShardRecord":
        """Read a commit record, refusing a damaged one."""
        content = read_sealed(path)
        try:
            built = {**content, "totals": _totals(content), "files": _files(content)}
            return build_record(cls, built, path)
        except (TypeError, KeyError, AttributeError, DataError) as error:
            raise DataError(
                f"{path} is no shard record of this version ({error}); choose another name, or set "
                "overwrite=true to rebuild the store"
            ) from error


@dataclass(frozen=True)
class Manifest:
    """The record of a complete store.

    Attributes:
        format_version: Version of the layout above.
        corpus: Name of the corpus within its set.
        domain: Kind of text.
        licence: Terms of use.
        tokenizer: Fingerprint of the tokenizer.
        vocab_size: Ids of the tokenizer, without padding rows.
        eod_id: Id that ends every document.
        dtype: Type of the ids in the token files.
        split: val_permille and test_permille.
        settings: Source, layout and rules of the corpus.
        cleaning: What is left out in view of the whole set.
        code: Version and commit of the code that finished the store; decides nothing.
        shards: Names of the token shards in order.
        totals: Per split.
        rejects: Rows that are not in the store, by reason.
        files: Every other file of the store by name, the staging aside.
    """

    format_version: int
    corpus: str
    domain: str
    licence: str
    tokenizer: str
    vocab_size: int
    eod_id: int
    dtype: str
    split: dict[str, int]
    settings: dict[str, Any]
    cleaning: dict[str, Any]
    code: dict[str, Any]
    shards: list[str]
    totals: dict[str, Totals]
    rejects: dict[str, int]
    files: dict[str, FileRecord]

    def write(self, folder: Path) -> None:
        """Complete the store."""
        write_sealed(folder / MANIFEST_NAME, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of a store.

        Raises:
            DataError: If the store is missing, unfinished, damaged or of another version.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            state = "is not finished" if folder.is_dir() else "does not exist"
            raise DataError(
                f"token store {folder} {state} (no {MANIFEST_NAME}); "
                "write it with `python -m biomamba.prepare`"
            )
        content = read_sealed(path)
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path} has format_version {version}, this program reads {FORMAT_VERSION}; "
                "prepare it again with overwrite=true"
            )
        try:
            built = {**content, "totals": _totals(content), "files": _files(content)}
            manifest = build_record(cls, built, path)
        except (TypeError, KeyError, AttributeError, DataError) as error:
            raise DataError(f"{path} is no store manifest: {error}") from error
        if manifest.dtype not in TOKEN_DTYPES or not 0 <= manifest.eod_id < manifest.vocab_size:
            raise DataError(
                f"{path} is no store manifest: dtype {manifest.dtype[:20]!r} must be one of "
                f"{', '.join(TOKEN_DTYPES)}, and eod_id an id of the vocabulary"
            )
        return manifest


def verify_store(folder: Path, mode: str) -> Manifest:
    """Compare the files of a store with its manifest.

    Args:
        folder: The store.
        mode: `full` hashes every file; `size` only compares sizes.

    Raises:
        DataError: Naming every file that is missing, cut or changed.
    """
    if mode not in ("full", "size"):
        raise ValueError(f"verify must be 'full' or 'size', got {mode!r}")
    manifest = Manifest.read(folder)
    problems = list(file_problems(folder, manifest.files, is_full=mode == "full"))
    if problems:
        raise DataError(
            f"token store {folder} is damaged: {'; '.join(problems)}. Prepare it again with "
            "overwrite=true, or copy it again"
        )
    return manifest


def file_problems(
    folder: Path,
    files: dict[str, FileRecord],
    *,
    is_full: bool,
    report: Callable[[int], object] | None = None,
) -> Iterable[str]:
    """Iterate over the deviations of files from their records, each naming its file.

    Args:
        folder: Where the files are.
        files: By name.
        is_full: Hash the files; otherwise only sizes are compared.
        report: Is told the bytes as they are hashed.
    """
    for name, record in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != record.size_bytes:
            yield f"{name} has {path.stat().st_size} bytes instead of {record.size_bytes}"
        elif is_full and sha256_of(path, report) != record.sha256:
            yield f"{name} does not match its sha256"


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest little-endian type that holds every id."""
    return np.dtype("<u2") if vocab_size <= np.iinfo(np.uint16).max + 1 else np.dtype("<u4")


def read_index(path: Path) -> NDArray[Any]:
    """Read an index file as an array of INDEX_DTYPE."""
    return np.fromfile(path, dtype=INDEX_DTYPE)


def record_of(path: Path) -> FileRecord:
    """Measure a file."""
    return FileRecord(size_bytes=path.stat().st_size, sha256=sha256_of(path))


def _totals(content: dict[str, Any]) -> dict[str, Totals]:
    return {split: build_record(Totals, content["totals"][split], split) for split in SPLITS}


def _files(content: dict[str, Any]) -> dict[str, FileRecord]:
    for name in (*content["files"], *content.get("shards", ())):
        if not _FILE_NAME.fullmatch(name):
            raise TypeError(f"{name[:60]!r} is no name of a file of the store")
    files = content["files"].items()
    return {name: build_record(FileRecord, record, name) for name, record in files}


# -------------------------------------------------------------------------------------------------
# A file that is written front to back, hashed on the way, and either whole or absent.
# -------------------------------------------------------------------------------------------------


class HashedFile:
    """Write arrays under a temporary name of this writer alone; `commit` gives the file its name.

    The temporary file is made at the first write, not before: a signal that ends the process
    between two constructors leaves no file that nobody would discard.

    Args:
        path: The file to be; what is there stays until `commit`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        name = f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
        self._temporary = path.with_name(name)
        self._stream: BinaryIO | None = None
        self._digest = sha256()
        self._size_bytes = 0

    def write(self, array: NDArray[Any]) -> None:
        """Append the bytes of an array."""
        content = array.tobytes()
        self._opened().write(content)
        self._digest.update(content)
        self._size_bytes += len(content)

    def commit(self) -> FileRecord:
        """Make the content durable, put the file in place and return its record.

        The new name is durable once the folder is synced, which the caller does for all its files.
        """
        stream = self._opened()
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()
        self._temporary.replace(self._path)
        return FileRecord(self._size_bytes, self._digest.hexdigest())

    def discard(self) -> None:
        """Remove the temporary file, if it is still there."""
        if self._stream is not None:
            with suppress(OSError):  # a full disk refuses the last bytes here once more
                self._stream.close()
        self._temporary.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        if self._stream is None:
            self._stream = self._temporary.open("xb")
        return self._stream


# -------------------------------------------------------------------------------------------------
# Say in which settings two records differ.
# -------------------------------------------------------------------------------------------------


def settings_difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return every difference by its dotted key, empty if there is none."""
    mine, its = _flatten(stored), _flatten(asked)
    return "; ".join(
        f"{key} is {mine.get(key)!r}, asked for {its.get(key)!r}"
        for key in sorted(mine.keys() | its.keys())
        if mine.get(key) != its.get(key)
    )


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        is_branch = isinstance(value, dict) and value
        flat |= _flatten(value, f"{prefix}{key}.") if is_branch else {prefix + key: value}
    return flat


# -------------------------------------------------------------------------------------------------
# What a published model must say about a token store that it was trained on.
# -------------------------------------------------------------------------------------------------

CONTAMINATION_NAME = "contamination.json"
# HubRows writes dataset@commit:name:split after this key; with data_files there is no commit.
_HUB_ROWS = re.compile(r"(?P<dataset>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40}):")


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """One corpus of a training run.

    Attributes:
        corpus: Its name.
        domain: Kind of text.
        licence: Terms of use, as its manifest has them.
        documents: Of the training split; so are tokens and bytes.
        dataset: Hub id; None for local files.
        revision: Commit of the dataset.
        benchmarks: What was kept out, with the number of items and of those that were found where
            that is known; None if nothing was looked for.
        rejects: Rows that are not in the store, by reason.
        newest_year: Of the documents of the training split; None if no year is known.
        benchmark_files: Hash of each benchmark file whose items were kept out, by benchmark and
            name; empty if there is none, None if that is not known.
    """

    corpus: str
    domain: str
    licence: str
    documents: int
    tokens: int
    bytes: int
    dataset: str | None
    revision: str | None
    benchmarks: Mapping[str, Mapping[str, int]] | None
    rejects: Mapping[str, int]
    newest_year: int | None = None
    benchmark_files: Mapping[str, str] | None = None

    @classmethod
    def of(cls, manifest: Manifest, folder: Path) -> "StoreFacts":
        """Collect the facts of a store in a folder."""
        train = manifest.totals["train"]
        hub = _HUB_ROWS.match(str(manifest.settings.get("rows", {}).get("dataset", "")))
        return cls(
            corpus=manifest.corpus,
            domain=manifest.domain,
            licence=manifest.licence,
            documents=train.documents,
            tokens=train.tokens,
            bytes=train.bytes,
            dataset=hub["dataset"] if hub else None,
            revision=hub["revision"] if hub else None,
            benchmarks=_benchmarks(manifest.cleaning, folder.parent / CONTAMINATION_NAME),
            rejects=manifest.rejects,
            newest_year=_newest_year(manifest, folder),
            benchmark_files=benchmark_files(manifest.cleaning),
        )

    @classmethod
    def read(cls, folder: Path) -> "StoreFacts":
        """Read the facts of a store.

        Raises:
            DataError: It is missing, unfinished or damaged.
        """
        return cls.of(Manifest.read(folder), folder)

    def as_record(self) -> dict[str, Any]:
        """Return plain values for the record of a run."""
        return asdict(self)


def benchmark_files(cleaning: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the hash of each benchmark file that the settings of a cleaning name.

    By benchmark and name; empty where no benchmark is kept out, None where nothing is said of it.
    """
    firewall = cleaning.get("firewall")
    if not isinstance(firewall, Mapping):
        return None
    return {
        f"{name}/{file}": digest
        for name, benchmark in firewall.get("benchmarks", {}).items()
        for file, digest in benchmark.get("files", {}).items()
    }


def _newest_year(manifest: Manifest, folder: Path) -> int | None:
    names = [name for name in manifest.files if name.endswith(f".train.{FACTS_KIND}")]
    return max((year for name in names for year in read_years(folder / name)), default=None)


def _benchmarks(cleaning: Mapping[str, Any], report_path: Path) -> dict[str, dict[str, int]] | None:
    """Return the benchmarks that were kept out; counts only from the report of this store."""
    firewall = cleaning.get("firewall")
    if not firewall or not firewall.get("benchmarks"):
        return None
    try:
        report = read_sealed(report_path)
    except DataError:
        report = {}
    is_its_own = report.get("settings", {}).get("firewall") == firewall
    counts = report.get("benchmarks", {}) if is_its_own else {}
    return {
        name: {key: counts[name][key] for key in ("items", "items_found")} if name in counts else {}
        for name in firewall["benchmarks"]
    }
