"""Documents that hold the items of a benchmark: by PMID, by title, by word n-grams."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.cleaning.benchmarks import Benchmark, Item
from biomamba.data.cleaning.ngrams import (
    Hashes,
    HashRows,
    hash_ngrams,
    hash_texts,
    hash_words,
)
from biomamba.data.document import Document, document_key
from biomamba.runtime.numbers import check_number, check_whole

# -------------------------------------------------------------------------------------------------
# Look up benchmark items by PMID, title and word n-gram for a batch of documents at once.
#
# Long n-grams find copies of whole items. Passages find what is too short for them, or was edited:
# a question, a snippet, one section of an abstract, of which a document has a large share of the
# short n-grams. Chance rarely gives a share of one passage, but often a few short n-grams of a
# whole item.
# -------------------------------------------------------------------------------------------------

Hits = NDArray[np.void]
# document: place in the batch or shard. item: place in ItemIndex.names. rule: Rule.
# ngrams: distinct n-grams of the item, or of its passage, in the document; 0 for the other rules.
HIT_DTYPE = np.dtype([("document", "<u4"), ("item", "<u4"), ("rule", "u1"), ("ngrams", "<u4")])
PMID_DOMAIN = "pubmed"  # documents of this domain are named by their PMID
TITLE_DOMAIN = "wikipedia"  # the first line of a document of this domain is its title
_SLOTS_PER_NGRAM = 16
_MIN_PASSAGE = 3  # distinct n-grams of a text that is looked for as a passage
_MIN_OF_PASSAGE = 4  # of them in a document, whatever the share; all, if there are fewer
_MAX_PASSAGE_WORDS = 256


class Rule(IntEnum):
    """Why a document belongs to an item."""

    PMID = 0
    TITLE = 1
    NGRAM = 2
    PASSAGE = 3


@dataclass(frozen=True)
class Lookup:
    """A map from hashes to items; one hash may belong to several.

    Attributes:
        hashes: Sorted, `(pairs,)`.
        items: Item of each, `(pairs,)`.
    """

    hashes: Hashes
    items: NDArray[np.int64]

    @classmethod
    def of(
        cls, hashes: Sequence[int] | Hashes, items: Sequence[int] | NDArray[np.int64]
    ) -> "Lookup":
        """Sort pairs of hash and item, each pair once."""
        keys, places = np.asarray(hashes, np.uint64), np.asarray(items, np.int64)
        order = np.lexsort((places, keys))
        keys, places = keys[order], places[order]
        is_new = np.ones(keys.size, np.bool_)
        is_new[1:] = (keys[1:] != keys[:-1]) | (places[1:] != places[:-1])
        return cls(keys[is_new], places[is_new])

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Return which hashes belong to an item."""
        first = np.searchsorted(self.hashes, hashes, "left")
        is_inside = first < self.hashes.size
        is_inside[is_inside] = self.hashes[first[is_inside]] == hashes[is_inside]
        return is_inside

    def find(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all matches as places in `hashes` and items."""
        first = np.searchsorted(self.hashes, hashes, "left")
        counts = np.searchsorted(self.hashes, hashes, "right") - first
        places = np.repeat(np.arange(hashes.size), counts)
        within = np.arange(places.size) - np.repeat(np.cumsum(counts) - counts, counts)
        return places, self.items[first[places] + within]


@dataclass(frozen=True)
class Passages:
    """The texts of all items by their short n-grams; an item has a passage for each text.

    Attributes:
        ngrams: Passages by n-gram.
        num_words: Words per n-gram.
        owners: Item of each passage, `(passages,)`.
        needed: N-grams that a document must share with each passage, `(passages,)`.
        may_match: Whether an n-gram with these upper bits exists, a power of two of slots.
    """

    ngrams: Lookup
    num_words: int
    owners: NDArray[np.int64]
    needed: NDArray[np.int64]
    may_match: NDArray[np.bool_]

    @classmethod
    def of(
        cls, texts: Sequence[str], owners: NDArray[np.int64], num_words: int, share: float
    ) -> "Passages":
        """Index texts, each with the item that it belongs to."""
        words = hash_words(texts)
        runs = hash_ngrams(words, num_words)
        numbers = np.repeat(np.arange(len(texts)), runs.counts)
        lookup = Lookup.of(runs.values, numbers)
        sizes = np.bincount(lookup.items, minlength=len(texts))
        needed = np.maximum(np.ceil(share * sizes), np.minimum(_MIN_OF_PASSAGE, sizes))
        # Of fewer words too many are set phrases; longer texts are found by the long n-grams.
        is_looked_for = (sizes >= _MIN_PASSAGE) & (words.counts <= _MAX_PASSAGE_WORDS)
        is_kept = is_looked_for[lookup.items]
        kept = Lookup(lookup.hashes[is_kept], lookup.items[is_kept])
        return cls(kept, num_words, owners, needed.astype(np.int64), _table_of(kept.hashes))

    def find(self, words: HashRows) -> Hits:
        """Return the pairs of document and item, each with the n-grams of its best passage."""
        documents, passages, counts = _shared(words, self.num_words, self.ngrams, self.may_match)
        is_enough = counts >= self.needed[passages]
        pairs = np.stack([documents[is_enough], self.owners[passages[is_enough]]])
        (documents, items), place = np.unique(pairs, axis=1, return_inverse=True)
        most = np.zeros(documents.size, np.int64)
        np.maximum.at(most, place.reshape(-1), counts[is_enough])
        return _hits(documents, items, Rule.PASSAGE, most)


@dataclass(frozen=True)
class ItemIndex:
    """The items of all benchmarks.

    Attributes:
        benchmarks: Names of the benchmarks.
        names: Benchmark and id of each item.
        pmid_of: PMIDs of the items by document key.
        pmids: Items by document key of their PMIDs.
        titles: Items by text hash of their titles.
        ngrams: Items by n-gram.
        ngram_words: Words per n-gram.
        needed: N-grams that a document must share with each item, 0 for an item without any,
            `(items,)`.
        may_match: Whether an n-gram with these upper bits exists, a power of two of slots.
        unknown_links: Links of each item that name no PMID, `(items,)`.
        passages: Their texts by short n-grams; None if these are not looked for.
    """

    benchmarks: list[str]
    names: list[tuple[str, str]]
    pmid_of: dict[int, str]
    pmids: Lookup
    titles: Lookup
    ngrams: Lookup
    ngram_words: int
    needed: NDArray[np.int64]
    may_match: NDArray[np.bool_]
    unknown_links: NDArray[np.int64]
    passages: Passages | None = None

    @classmethod
    def of(
        cls,
        items: Sequence[tuple[str, Item]],
        ngram_words: int,
        min_ngrams: int,
        *,
        passage_words: int | None = None,
        passage_share: float = 1.0,
    ) -> "ItemIndex":
        """Index items given with the names of their benchmarks."""
        pmids = [(document_key(p), n) for n, (_, item) in enumerate(items) for p in item.pmids]
        titles = [(n, item.title) for n, (_, item) in enumerate(items) if item.title is not None]
        texts = [(n, text) for n, (_, item) in enumerate(items) for text in item.texts]
        runs = hash_ngrams(hash_words([text for _, text in texts]), ngram_words)
        owners = np.repeat(np.array([n for n, _ in texts], np.int64), runs.counts)
        ngrams = Lookup.of(runs.values, owners)
        passages = None
        if passage_words is not None:
            places = np.array([n for n, _ in texts], np.int64)
            named = [text for _, text in texts]
            passages = Passages.of(named, places, passage_words, passage_share)
        return cls(
            benchmarks=list(dict.fromkeys(benchmark for benchmark, _ in items)),
            names=[(benchmark, item.id) for benchmark, item in items],
            pmid_of={document_key(pmid): pmid for _, item in items for pmid in item.pmids},
            pmids=Lookup.of([key for key, _ in pmids], [n for _, n in pmids]),
            titles=Lookup.of(_title_hashes([title for _, title in titles]), [n for n, _ in titles]),
            ngrams=ngrams,
            ngram_words=ngram_words,
            needed=np.minimum(np.bincount(ngrams.items, minlength=len(items)), min_ngrams),
            may_match=_table_of(ngrams.hashes),
            unknown_links=np.array([item.num_unknown_links for _, item in items], np.int64),
            passages=passages,
        )

    def summary(self) -> str:
        """Say how many items are kept out, and how many only their PMID or title can find."""
        counts = Counter(benchmark for benchmark, _ in self.names)
        parts = ", ".join(f"{name} ({count:,} items)" for name, count in counts.items())
        num_short = int(np.count_nonzero(self.needed == 0))
        short = (
            f"; {num_short:,} items have fewer than {self.ngram_words} words" if num_short else ""
        )
        num_links = int(self.unknown_links.sum())
        links = f"; {num_links:,} links to articles name no PMID" if num_links else ""
        return f"kept out of these documents: {parts}{short}{links}"

    def hits(self, documents: Sequence[Document], words: HashRows) -> Hits:
        """Return the pairs of document and item of a batch, as HIT_DTYPE."""
        by_ngram = self._ngram_hits(words)
        found = [self._pmid_hits(documents), self._title_hits(documents), by_ngram]
        if self.passages is not None:
            by_passage = self.passages.find(words)
            found.append(by_passage[~np.isin(_pairs(by_passage), _pairs(by_ngram))])
        return np.concatenate(found)

    def _pmid_hits(self, documents: Sequence[Document]) -> Hits:
        chosen = [n for n, document in enumerate(documents) if document.domain == PMID_DOMAIN]
        keys = [document_key(documents[n].id) for n in chosen]
        places, items = self.pmids.find(np.array(keys, np.uint64))
        return _hits(np.array(chosen, np.int64)[places], items, Rule.PMID)

    def _title_hits(self, documents: Sequence[Document]) -> Hits:
        chosen = [n for n, document in enumerate(documents) if document.domain == TITLE_DOMAIN]
        if not chosen or not self.titles.hashes.size:
            return np.empty(0, HIT_DTYPE)
        titles = [documents[n].text.split("\n", 1)[0] for n in chosen]
        places, items = self.titles.find(_title_hashes(titles))
        return _hits(np.array(chosen, np.int64)[places], items, Rule.TITLE)

    def _ngram_hits(self, words: HashRows) -> Hits:
        documents, items, counts = _shared(words, self.ngram_words, self.ngrams, self.may_match)
        is_enough = counts >= self.needed[items]
        return _hits(documents[is_enough], items[is_enough], Rule.NGRAM, counts[is_enough])


def _shared(
    words: HashRows, num_words: int, ngrams: Lookup, may_match: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of document and owner of n-grams, and how many distinct ones they share."""
    runs = hash_ngrams(words, num_words)
    places = np.flatnonzero(may_match[_slots(runs.values, may_match)])
    places = places[ngrams.contains(runs.values[places])]
    owners = np.searchsorted(runs.ends, places, "right")
    # Sorted by document, each n-gram of a document once.
    distinct = np.unique(np.stack([owners.astype(np.uint64), runs.values[places]]), axis=1)
    found, items = ngrams.find(distinct[1])
    pairs = np.stack([distinct[0][found].astype(np.int64), items])
    (documents, items), counts = np.unique(pairs, axis=1, return_counts=True)
    return documents, items, counts


def _pairs(hits: Hits) -> NDArray[np.uint64]:
    """Return document and item of each hit as one number."""
    return hits["document"].astype(np.uint64) << np.uint64(32) | hits["item"].astype(np.uint64)


def _table_of(hashes: Hashes) -> NDArray[np.bool_]:
    table = np.zeros(1 << _num_bits(hashes.size), np.bool_)
    table[_slots(hashes, table)] = True
    return table


def _title_hashes(titles: Sequence[str]) -> Hashes:
    return hash_texts(titles, hash_words(titles))


def _num_bits(num_ngrams: int) -> int:
    return max(num_ngrams * _SLOTS_PER_NGRAM, 1 << 10).bit_length()


def _slots(hashes: Hashes, table: NDArray[np.bool_]) -> NDArray[np.int64]:
    return (hashes >> np.uint64(65 - table.size.bit_length())).astype(np.int64)


def _hits(
    documents: NDArray[np.int64],
    items: NDArray[np.int64],
    rule: Rule,
    counts: NDArray[np.int64] | int = 0,
) -> Hits:
    hits = np.zeros(documents.size, HIT_DTYPE)
    hits["document"], hits["item"], hits["rule"], hits["ngrams"] = documents, items, rule, counts
    return hits


# -------------------------------------------------------------------------------------------------
# Documents that hold the items of a benchmark: by PMID, by title, by word n-grams.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Firewall:
    """Benchmarks whose items must not be trained on.

    Attributes:
        benchmarks: Benchmarks by name; none means that nothing is kept out.
        ngram_words: Words per n-gram.
        min_ngrams: Distinct n-grams of one item that a document must share with it; fewer are
            enough where the item has no more.
        passage_words: Words per n-gram of the passages, which are the single texts of an item; None
            looks for no passages.
        passage_share: Share of the distinct n-grams of one passage that a document must have.
    """

    benchmarks: Mapping[str, Benchmark] = field(default_factory=dict)
    ngram_words: int = 13
    min_ngrams: int = 3
    passage_words: int | None = 5
    passage_share: float = 0.4

    def __post_init__(self) -> None:
        check_whole("ngram_words", self.ngram_words)
        check_whole("min_ngrams", self.min_ngrams)
        check_whole("passage_words", self.passage_words, optional=True)
        check_number("passage_share", self.passage_share, above=0, at_most=1)

    @cached_property
    def index(self) -> ItemIndex:
        """The items of all benchmarks, read once and carried into worker processes.

        Raises:
            DataError: If a benchmark file is missing or malformed.
        """
        items = [
            (name, item)
            for name, benchmark in sorted(self.benchmarks.items())
            for item in benchmark.items()
        ]
        return ItemIndex.of(
            items,
            self.ngram_words,
            self.min_ngrams,
            passage_words=self.passage_words,
            passage_share=self.passage_share,
        )

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the hits, with the hashes of the benchmark files.

        Raises:
            DataError: If a benchmark file is missing or malformed.
        """
        _ = self.index
        return {
            "ngram_words": self.ngram_words,
            "min_ngrams": self.min_ngrams,
            "passage_words": self.passage_words,
            "passage_share": self.passage_share,
            "benchmarks": {
                name: benchmark.settings() | {"files": benchmark.fingerprints()}
                for name, benchmark in sorted(self.benchmarks.items())
            },
        }

    def notices(self) -> list[str]:
        """Return what a user should know: how many items are looked for, and files that are absent.

        Raises:
            DataError: If a benchmark file is missing or malformed.
        """
        notices = [self.index.summary()]
        for _, benchmark in sorted(self.benchmarks.items()):
            notices += getattr(benchmark, "notices", list)()
        return notices

    def hits(self, documents: Sequence[Document], words: HashRows) -> Hits:
        """Return which documents of a batch belong to which items, as HIT_DTYPE.

        Args:
            documents: The batch.
            words: The words of their texts.
        """
        if not self.benchmarks:
            return np.empty(0, HIT_DTYPE)
        return self.index.hits(documents, words)
