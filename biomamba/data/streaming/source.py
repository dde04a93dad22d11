"""The raw shards of a source, and which of their documents each virtual reader reads.

A run has a fixed number of virtual readers, whatever its ranks and workers: what a reader reads is
a pure function of the raw data, the settings, the seed and its number.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from biomamba.data.cleaning.benchmark_filter import Firewall
from biomamba.data.cleaning.ngrams import hash_words
from biomamba.data.cleaning.policy import MAX_DOCUMENT_CHARACTERS, length_settings
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import Document, Reject, SplitRule, document_key
from biomamba.data.rows import RawShard
from biomamba.runtime.errors import DataError

# -------------------------------------------------------------------------------------------------
# Which documents of a stream belong to a split, and which may not be used at all.
# -------------------------------------------------------------------------------------------------


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


# -------------------------------------------------------------------------------------------------
# The raw shards of a source, and which of their documents each virtual reader reads.
# -------------------------------------------------------------------------------------------------

# Below so many rows a single damaged one would already be more than the usual fraction.
_MIN_ROWS = 1_000


@dataclass(frozen=True)
class CorpusShard:
    """One raw shard and the corpus that reads it."""

    corpus: Corpus
    shard: RawShard

    def documents(self, max_bad_fraction: float) -> Iterator[tuple[int, Document]]:
        """Iterate over the documents with the numbers of their rows; rejects are passed over.

        Raises:
            DataError: If more of the rows than the fraction are damaged.
        """
        num_damaged = 0
        for row, document in enumerate(self.corpus.documents(self.shard)):
            if isinstance(document, Document):
                yield row, document
                continue
            num_damaged += document.is_damaged
            if row >= _MIN_ROWS and num_damaged > max_bad_fraction * (row + 1):
                raise DataError(
                    f"{num_damaged} of the first {row + 1} rows of {self.shard.name} are damaged "
                    f"(last: {_describe(document)}), more than max_bad_fraction = "
                    f"{max_bad_fraction}; check the files or raise max_bad_fraction"
                )


@dataclass(frozen=True)
class StreamedSource:
    """The corpora pooled in one source.

    Attributes:
        name: Name of the source.
        index: Position of the source in the order of the sources.
        shards: The raw shards of all its corpora, in order.
        settings: What identifies the documents.
    """

    name: str
    index: int
    shards: tuple[CorpusShard, ...]
    settings: Any

    @classmethod
    def open(
        cls, name: str, index: int, names: Sequence[str], corpora: Mapping[str, Corpus]
    ) -> "StreamedSource":
        """Find the raw shards of the named corpora.

        Raises:
            DataError: If there are none.
        """
        pooled = [(corpora[corpus], list(corpora[corpus].shards())) for corpus in names]
        shards = tuple(CorpusShard(corpus, shard) for corpus, found in pooled for shard in found)
        if not shards:
            raise DataError(f"source {name!r} has no raw shards; check its corpora {list(names)}")
        settings = [
            [corpus.settings(), [[shard.name, shard.fingerprint()] for shard in found]]
            for corpus, found in pooled
        ]
        return cls(name, index, shards, settings)

    def part(self, reader: int, num_readers: int) -> "ReaderPart":
        """Return what one of the readers reads."""
        num_shards = len(self.shards)
        if num_shards >= num_readers:
            return ReaderPart(self.shards[reader::num_readers], 0, 1)
        shard = reader % num_shards
        num_turns = len(range(shard, num_readers, num_shards))
        return ReaderPart((self.shards[shard],), reader // num_shards, num_turns)


@dataclass(frozen=True)
class ReaderPart:
    """Every `num_turns`-th row of some shards, from row `turn` on."""

    shards: tuple[CorpusShard, ...]
    turn: int
    num_turns: int

    def documents(
        self, shard: int, first_row: int, max_bad_fraction: float
    ) -> Iterator[tuple[int, Document]]:
        """Iterate over the documents of one shard from a row on, with the numbers of the rows."""
        for row, document in self.shards[shard].documents(max_bad_fraction):
            if row >= first_row and row % self.num_turns == self.turn:
                yield row, document


def _describe(reject: Reject) -> str:
    return reject.reason if reject.id is None else f"{reject.reason} at {reject.id}"
