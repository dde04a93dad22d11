"""Year and MeSH descriptors of scored documents as files beside their scores.

A file holds the keys of the documents (hashes of their ids), years and descriptors, and no text; a
report needs no store then. Documents of which nothing is known are not in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from biomamba.data.document_facts import DocumentFacts, decode, encode
from biomamba.data.sealed import read_sealed, write_sealed
from biomamba.data.split_facts import find_facts
from biomamba.evaluation.document_scores import StoredScores
from biomamba.runtime.errors import DataError

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
