"""The PMIDs and versions of one PubMed file, kept for the next run.

A parse of all of PubMed takes hours, a hash of its files minutes. What a file gave is kept under
the hash of its bytes, sealed: a stale or damaged record is read anew and never trusted.
"""

import logging
import zlib
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.pubmed_xml import elements, is_record, read_deletions, read_key
from biomamba.data.sealed import read_sealed, sha256_of, write_sealed
from biomamba.runtime.errors import DataError

_LOG = logging.getLogger(__name__)
# Goes up when the same bytes would give other keys.
_FORMAT_VERSION = 1
_COLUMNS = {"pmids": "<u4", "versions": "<u2", "deleted": "<u4"}


@dataclass(frozen=True, eq=False)
class FileKeys:
    """The keys of one file.

    Attributes:
        pmids: `(records,)` in file order; 0 for a record without a usable PMID and version.
        versions: `(records,)`.
        deleted: PMIDs that the file deletes.
    """

    pmids: NDArray[np.uint32]
    versions: NDArray[np.uint16]
    deleted: NDArray[np.uint32]


def read_keys(path: Path) -> FileKeys:
    """Read the keys of one file.

    Raises:
        DataError: If the file is not PubMed XML or is damaged.
    """
    keys: list[tuple[int, int]] = []
    deleted = [np.empty(0, dtype=np.uint32)]
    for element in elements(path):
        if is_record(element, path):
            keys.append(read_key(element) or (0, 0))
        else:
            deleted.append(read_deletions(element, path))
    return FileKeys(
        pmids=np.array([pmid for pmid, _ in keys], dtype=np.uint32),
        versions=np.array([version for _, version in keys], dtype=np.uint16),
        deleted=np.concatenate(deleted),
    )


def cached_keys(path: Path, folder: Path | None) -> FileKeys:
    """Return the keys of one file, from the record in a folder if it fits the bytes of the file.

    Several processes may use one folder at once. A folder that cannot be written only costs time.

    Args:
        path: The file.
        folder: Where the records are; None reads the file and keeps nothing.

    Raises:
        DataError: If the file is not PubMed XML or is damaged.
    """
    if folder is None:
        return read_keys(path)
    identity = {"format_version": _FORMAT_VERSION, "file_sha256": _hash(path)}
    record = folder / f"{path.name}.json"
    if (kept := _unpack(record, identity)) is not None:
        return kept
    keys = read_keys(path)
    if _hash(path) != identity["file_sha256"]:
        raise DataError(
            f"{path} changed while it was read; wait until nobody writes to it and run again"
        )
    try:
        write_sealed(record, {**identity, **_pack(keys)})
    except DataError as error:
        _LOG.warning("the keys of %s are not kept: %s", path.name, error)
    return keys


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}); mend the rights or fetch it again"
        ) from error


def _pack(keys: FileKeys) -> dict[str, str]:
    return {
        name: b64encode(zlib.compress(getattr(keys, name).astype(dtype).tobytes())).decode("ascii")
        for name, dtype in _COLUMNS.items()
    }


def _unpack(record: Path, identity: dict[str, Any]) -> FileKeys | None:
    try:
        content = read_sealed(record)
    except DataError as error:
        _LOG.debug("no record of keys: %s", error)
        return None
    if {name: content.get(name) for name in identity} != identity:
        return None
    arrays = {
        name: np.frombuffer(zlib.decompress(b64decode(content[name])), dtype)
        for name, dtype in _COLUMNS.items()
    }
    return FileKeys(**arrays)
