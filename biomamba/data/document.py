"""One document of a corpus, the row that could not become one, and the key that names it.

The key decides everything that must survive re-crawling and re-sharding: the split and the
detection of duplicates. It is a hash of the document id alone, never of a position in a file.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from biomamba.data.document_facts import DocumentFacts
from biomamba.runtime.numbers import check_whole

SPLITS = ("train", "val", "test")
_PERMILLE = 1000


@dataclass(frozen=True, slots=True)
class Document:
    """A text to train on or to score.

    Attributes:
        text: The cleaned text.
        id: Stable key within the corpus: PMID, URL, page id, or a hash of the text.
        domain: Name of the kind of text, for example `pubmed`.
        group: Documents of one group share a split, for example those of one patient; None stands
            for the id: the document is a group of its own.
        facts: What its public record says about it; None: nothing.
    """

    text: str
    id: str
    domain: str
    group: str | None = None
    facts: DocumentFacts | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that did not become a document.

    Attributes:
        reason: Short and countable, without the offending value.
        id: Where the row is or what its id is; None if neither is known.
        is_damaged: True for technical faults, which stop the stage beyond a fraction; False for
            rows that the cleaning policy leaves out.
    """

    reason: str
    id: str | None
    is_damaged: bool = False


@dataclass(frozen=True)
class SplitRule:
    """Assign documents to splits by their key, before anything is cut.

    Attributes:
        val_permille: Thousandths of the key space that go to `val`.
        test_permille: Thousandths of the key space that go to `test`.
    """

    val_permille: int
    test_permille: int

    def __post_init__(self) -> None:
        check_whole("val_permille", self.val_permille, at_least=0)
        check_whole("test_permille", self.test_permille, at_least=0)
        if self.val_permille + self.test_permille >= _PERMILLE:
            raise ValueError(f"val_permille + test_permille must stay below 1000: {self}")

    def split_of(self, key: int) -> str:
        """Name the split of one document key."""
        return SPLITS[int(self.indices(np.array([key], dtype=np.uint64))[0])]

    def indices(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return for each key the index of its split in SPLITS."""
        bucket = (keys % np.uint64(_PERMILLE)).astype(np.int64)
        in_test = bucket < self.test_permille
        in_val = (bucket < self.test_permille + self.val_permille) & ~in_test
        return np.where(in_test, 2, np.where(in_val, 1, 0)).astype(np.int64)


def document_key(document_id: str) -> int:
    """Hash a document id to 64 bits."""
    digest = blake2b(document_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def text_id(text: str) -> str:
    """Name a document without an id of its own by its content."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
