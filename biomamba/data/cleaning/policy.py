"""What is cleaned, and the marks on each document from which the whole set is later decided."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from biomamba.data.cleaning.benchmark_filter import Firewall, Hits
from biomamba.data.cleaning.near_duplicates import NearDuplicates
from biomamba.data.cleaning.ngrams import Hashes, hash_texts, hash_words
from biomamba.data.document import Document, Reject
from biomamba.runtime.numbers import check_whole

# Goes up when the same texts and settings give other marks: what was staged before is then stale.
_MARKS_VERSION = 2
# Marking and tokenizing take about 110 bytes of memory per character. The longest articles of
# Wikipedia and the longest novels have less than this.
MAX_DOCUMENT_CHARACTERS = 5_000_000


@dataclass(frozen=True)
class Marks:
    """What the decision needs to know about a batch of documents.

    Attributes:
        text: Hash of the normalized words, `(documents,)`.
        bands: Near-duplicates share a value in a column, `(documents, bands)`; no columns where
            near-duplicates are not looked for.
        hits: HIT_DTYPE; `document` is the place in the batch.
    """

    text: Hashes
    bands: Hashes
    hits: Hits


@dataclass(frozen=True)
class Cleaning:
    """Which documents of a set are left out, and which must share a split.

    Attributes:
        exact_duplicates: Keep one of the documents with equal words; False keeps all of them, in
            one split.
        near_duplicates: How near-duplicates are found; None looks for none.
        firewall: Benchmarks to keep out.
        max_document_characters: Longer documents are left out: this bounds the memory of a worker.
    """

    exact_duplicates: bool = True
    near_duplicates: NearDuplicates | None = None
    firewall: Firewall = field(default_factory=Firewall)
    max_document_characters: int = MAX_DOCUMENT_CHARACTERS

    def __post_init__(self) -> None:
        check_whole("max_document_characters", self.max_document_characters)

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the marks and what becomes of them."""
        near = self.near_duplicates
        return {
            "marks_version": _MARKS_VERSION,
            "exact_duplicates": self.exact_duplicates,
            "near_duplicates": None if near is None else near.settings(),
            "firewall": self.firewall.settings(),
            **length_settings(self.max_document_characters),
        }

    def notices(self) -> list[str]:
        """Return what a user should know before documents are prepared under this policy.

        Raises:
            DataError: If a benchmark file is missing or malformed.
        """
        if not self.firewall.benchmarks:
            return [
                "no benchmark is kept out of these documents: evaluations may meet texts seen in "
                "training; name the benchmarks with benchmark=[pubmedqa,bioasq,wikitext,...]"
            ]
        return self.firewall.notices()

    def admit(self, rows: Iterable[Document | Reject]) -> Iterator[Document | Reject]:
        """Turn documents that are too long into rejects; all other rows stay as they are."""
        limit = self.max_document_characters
        for row in rows:
            if isinstance(row, Document) and len(row.text) > limit:
                yield Reject(f"longer than {limit} characters", row.id)
            else:
                yield row

    def marks(self, documents: Sequence[Document]) -> Marks:
        """Mark a batch of documents; a few hundred at a time are fastest."""
        texts = [document.text for document in documents]
        words = hash_words(texts)
        text = hash_texts(texts, words)
        near = self.near_duplicates
        bands = np.empty((text.size, 0), np.uint64) if near is None else near.bands(words, text)
        return Marks(text, bands, self.firewall.hits(documents, words))


def length_settings(max_document_characters: int) -> dict[str, int]:
    """Return the limit on the length of documents as a setting; nothing where it is the default.

    Records that were written before there was a limit do not name it, and remain valid.
    """
    is_default = max_document_characters == MAX_DOCUMENT_CHARACTERS
    return {} if is_default else {"max_document_characters": max_document_characters}
