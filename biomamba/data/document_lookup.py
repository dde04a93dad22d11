"""Find one document in token stores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biomamba.data.document import SPLITS
from biomamba.data.store_reader import open_stores
from biomamba.data.token_split import TokenSplit


@dataclass(frozen=True)
class StoredDocument:
    """Where a document lies: its store, its split and its tokens with the EOD."""

    folder: str
    split: str
    tokens: int


def find_document(folders: Sequence[str], key: int) -> StoredDocument | None:
    """Return where the stores of a source hold the document of a key; None if they do not.

    Raises:
        DataError: If a store is missing or damaged.
    """
    for store in open_stores(folders):
        for split in SPLITS:
            documents = TokenSplit.open([store], split)
            (found,) = np.nonzero(documents.keys == np.uint64(key))
            if len(found):
                return StoredDocument(str(store.folder), split, int(documents.lengths[found[0]]))
    return None
