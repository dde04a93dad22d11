"""The records that make a token store trustworthy: one per shard, one for the whole.

A store is a folder of one corpus under one tokenizer:

    NNNNN.{train,val,test}.bin   token ids, little endian, every document ends with the EOD id
    NNNNN.{train,val,test}.idx   one INDEX_DTYPE record per document
    NNNNN.{train,val,test}.facts year and MeSH descriptors of the documents, where something is
                                 known of one of them, see document_facts.py
    NNNNN.json                   ShardRecord, written last of its shard: the commit point
    MANIFEST.json                Manifest, written last of all
    staging/                     what the decisions about the whole set need, see staged_shard.py

A split without documents in a shard has no files there.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.config.annotations import build_record
from biomamba.data.document import SPLITS
from biomamba.data.sealed import read_sealed, sha256_of, write_sealed
from biomamba.runtime.errors import DataError

FORMAT_VERSION = 2
TOKEN_DTYPES = ("uint16", "uint32", "<u2", "<u4")
# Files lie in the folder of the store itself, whatever a manifest from elsewhere says.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MANIFEST_NAME = "MANIFEST.json"
# end: offset behind the document in tokens, EOD included; num_bytes: UTF-8 bytes of its text.
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
