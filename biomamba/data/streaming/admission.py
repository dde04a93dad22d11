"""Which documents of a stream belong to a split, and which may not be used at all."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from biomamba.data.cleaning.firewall import Firewall
from biomamba.data.cleaning.policy import MAX_DOCUMENT_CHARACTERS, length_settings
from biomamba.data.cleaning.words import hash_words
from biomamba.data.document import Document, SplitRule, document_key


@dataclass(frozen=True)
class Admission:
    """The split rule and the benchmarks to keep out; both look at one document alone.

    Duplicates and near-duplicates cannot be found here: that needs the whole set, and a stream
    has seen only what it has read.

    Attributes:
        rule: Assigns a document by the key of its group, as when stores are prepared.
        firewall: Benchmarks whose items are left out of every split.
        max_document_characters: Longer documents belong to no split.
    """

    rule: SplitRule
    firewall: Firewall
    max_document_characters: int = MAX_DOCUMENT_CHARACTERS

    def is_of(self, split: str, document: Document) -> bool:
        """Say whether a document belongs to a split."""
        if len(document.text) > self.max_document_characters:
            return False
        return self.rule.split_of(document_key(document.group or document.id)) == split

    def without_benchmarks(self, documents: Sequence[Document]) -> list[Document]:
        """Return the documents that hold no item of a benchmark, in order."""
        if not self.firewall.benchmarks or not documents:
            return list(documents)
        words = hash_words([document.text for document in documents])
        hit = set(self.firewall.hits(documents, words)["document"].tolist())
        return [document for place, document in enumerate(documents) if place not in hit]

    def settings(self) -> dict[str, Any]:
        """Return everything that decides."""
        return {
            "split": asdict(self.rule),
            "firewall": self.firewall.settings(),
            **length_settings(self.max_document_characters),
        }
