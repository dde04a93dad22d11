"""Find what is known about documents of a split, by their keys."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biomamba.data.document_facts import FACTS_KIND, DocumentFacts, read_facts
from biomamba.data.manifest import Manifest, read_index
from biomamba.runtime.errors import DataError


def find_facts(
    stores: Sequence[Path], split: str, keys: NDArray[np.uint64]
) -> dict[int, DocumentFacts]:
    """Return the facts of the documents with these keys, for those of which something is known.

    Stores of one source may hold a document twice; the first one that knows something tells it.

    Raises:
        DataError: If a store is missing or damaged.
    """
    found: dict[int, DocumentFacts] = {}
    for folder in stores:
        manifest = Manifest.read(folder)
        for shard in manifest.shards:
            stem = f"{shard}.{split}"
            if f"{stem}.{FACTS_KIND}" in manifest.files:
                _find(folder / stem, keys, found)
    return found


def _find(stem: Path, keys: NDArray[np.uint64], found: dict[int, DocumentFacts]) -> None:
    own = read_index(stem.with_name(f"{stem.name}.idx"))["key"]
    path = stem.with_name(f"{stem.name}.{FACTS_KIND}")
    facts = read_facts(path)
    if len(facts) != len(own):
        raise DataError(
            f"{path} tells of {len(facts)} documents, the split has {len(own)}; copy the store "
            "again, or prepare it again with overwrite=true"
        )
    for number in np.flatnonzero(np.isin(own, keys)).tolist():
        each = facts[number]
        if each is not None:
            found.setdefault(int(own[number]), each)
