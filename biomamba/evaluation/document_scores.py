"""Scores and metadata of single documents as files beside the records of an evaluation.

A file holds the keys of the documents (hashes of their ids), nll, tokens and bytes, and no text.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.document import DocumentFacts, decode, encode
from biomamba.data.store.reader import find_facts
from biomamba.evaluation.perplexity import DocumentScores
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import read_sealed, write_bytes, write_sealed
from biomamba.runtime.input_files import loads

DOCUMENT_SCORES = "document_scores"  # folder in that of an evaluation
_UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
_ARRAYS = ("keys", "nll", "num_tokens", "num_bytes")


@dataclass(frozen=True, kw_only=True)
class ScoreOrigin:
    """What documents were scored, how and by which model.

    Attributes:
        source: Name of the source.
        model: Label of the model.
        split: Split of the documents.
        tokenizer: Fingerprint of the tokenizer of their tokens.
        protocol: Settings that change the score of a document.
        provenance: As in result records.
    """

    source: str
    model: str
    split: str
    tokenizer: str
    protocol: Mapping[str, Any]
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class StoredScores:
    """The scores of the documents with these keys (documents,), in the order of the keys."""

    origin: ScoreOrigin
    keys: NDArray[np.uint64]
    scores: DocumentScores


def write_document_scores(folder: Path, stored: StoredScores) -> Path:
    """Write <folder>/<source>.<model>.npz, its documents in the order of their keys."""
    order = np.lexsort((stored.scores.num_bytes, stored.keys))
    arrays = {"keys": stored.keys, **asdict(stored.scores)}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        header=np.array(json.dumps(asdict(stored.origin), sort_keys=True)),
        **{name: arrays[name][order] for name in _ARRAYS},
    )
    path = folder / f"{stored.origin.source}.{stored.origin.model}.npz"
    write_bytes(path, buffer.getvalue())
    return path


def read_document_scores(path: Path) -> StoredScores:
    """Read a file of write_document_scores.

    Raises:
        DataError: The file is not one, or damaged.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            origin = ScoreOrigin(**loads(str(found["header"])))
            keys, nll, num_tokens, num_bytes = (found[name] for name in _ARRAYS)
    except _UNREADABLE as error:
        raise DataError(
            f"{path}: not a file of document scores, or damaged ({error}); evaluate again"
        ) from error
    if len({len(array) for array in (keys, nll, num_tokens, num_bytes)}) != 1:
        raise DataError(f"{path}: its arrays differ in length; evaluate again")
    return StoredScores(origin, keys, DocumentScores(nll, num_tokens, num_bytes))


# -------------------------------------------------------------------------------------------------
# Year and MeSH descriptors of scored documents as files beside their scores.
#
# A file holds the keys of the documents (hashes of their ids), years and descriptors, and no text;
# a report needs no store then. Documents of which nothing is known are not in it.
# -------------------------------------------------------------------------------------------------

DOCUMENT_FACTS = "document_facts"  # folder in that of an evaluation


@dataclass(frozen=True)
class StoredFacts:
    """What is known of the documents of a source.

    Attributes:
        source: Its name.
        data_fingerprint: As in the provenance of their scores.
        facts: By key, as in the scores: 16 hexadecimal digits.
    """

    source: str
    data_fingerprint: str | None
    facts: Mapping[str, DocumentFacts]


def write_document_facts(folder: Path, stored: StoredScores, stores: Sequence[str]) -> Path | None:
    """Write <folder>/<source>.json from the facts in the stores of a source; None without any.

    Raises:
        DataError: A store is damaged, or the file cannot be written.
    """
    origin = stored.origin
    path = folder / f"{origin.source}.json"
    found = find_facts([Path(store) for store in stores], origin.split, stored.keys)
    if not found:
        path.unlink(missing_ok=True)  # of an earlier evaluation of other stores
        return None
    keys = sorted(found)
    descriptors, lines = encode([found[key] for key in keys])
    content = {
        "source": origin.source,
        "data_fingerprint": origin.provenance.get("data_fingerprint"),
        "descriptors": [f"{ui} {name}" for ui, name in descriptors],
        "documents": {f"{key:016x}": line for key, line in zip(keys, lines, strict=True)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_sealed(path, content)
    return path


def read_document_facts(path: Path) -> StoredFacts:
    """Read a file of write_document_facts.

    Raises:
        DataError: The file is not one, or damaged.
    """
    content = read_sealed(path)
    try:
        descriptors = [each.split(" ", 1) for each in content["descriptors"]]
        documents = content["documents"]
        facts = decode(descriptors, list(documents.values()))
        known = {key: each for key, each in zip(documents, facts, strict=True) if each is not None}
        return StoredFacts(content["source"], content["data_fingerprint"], known)
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a file of document facts ({error!r}); evaluate again"
        ) from error
