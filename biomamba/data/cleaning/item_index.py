"""Look up benchmark items by PMID, title and word n-gram for a batch of documents at once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from biomamba.data.cleaning.benchmarks.item import Item
from biomamba.data.cleaning.words import (
    Hashes,
    HashRows,
    hash_ngrams,
    hash_texts,
    hash_words,
)
from biomamba.data.document import Document, document_key

Hits = NDArray[np.void]
# document: place in the batch or shard. item: place in ItemIndex.names. rule: Rule.
# ngrams: distinct n-grams of the item in the document; 0 for the other rules.
HIT_DTYPE = np.dtype([("document", "<u4"), ("item", "<u4"), ("rule", "u1"), ("ngrams", "<u4")])

PMID_DOMAIN = "pubmed"  # documents of this domain are named by their PMID
TITLE_DOMAIN = "wikipedia"  # the first line of a document of this domain is its title
_SLOTS_PER_NGRAM = 16


class Rule(IntEnum):
    """Why a document belongs to an item."""

    PMID = 0
    TITLE = 1
    NGRAM = 2


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

    @classmethod
    def of(
        cls, items: Sequence[tuple[str, Item]], ngram_words: int, min_ngrams: int
    ) -> "ItemIndex":
        """Index items given with the names of their benchmarks."""
        pmids = [(document_key(p), n) for n, (_, item) in enumerate(items) for p in item.pmids]
        titles = [(n, item.title) for n, (_, item) in enumerate(items) if item.title is not None]
        texts = [(n, text) for n, (_, item) in enumerate(items) for text in item.texts]
        runs = hash_ngrams(hash_words([text for _, text in texts]), ngram_words)
        owners = np.repeat(np.array([n for n, _ in texts], np.int64), runs.counts)
        ngrams = Lookup.of(runs.values, owners)
        may_match = np.zeros(1 << _num_bits(ngrams.hashes.size), np.bool_)
        may_match[_slots(ngrams.hashes, may_match)] = True
        return cls(
            benchmarks=list(dict.fromkeys(benchmark for benchmark, _ in items)),
            names=[(benchmark, item.id) for benchmark, item in items],
            pmid_of={document_key(pmid): pmid for _, item in items for pmid in item.pmids},
            pmids=Lookup.of([key for key, _ in pmids], [n for _, n in pmids]),
            titles=Lookup.of(_title_hashes([title for _, title in titles]), [n for n, _ in titles]),
            ngrams=ngrams,
            ngram_words=ngram_words,
            needed=np.minimum(np.bincount(ngrams.items, minlength=len(items)), min_ngrams),
            may_match=may_match,
            unknown_links=np.array([item.num_unknown_links for _, item in items], np.int64),
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
        return np.concatenate(
            [self._pmid_hits(documents), self._title_hits(documents), self._ngram_hits(words)]
        )

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
        runs = hash_ngrams(words, self.ngram_words)
        places = np.flatnonzero(self.may_match[_slots(runs.values, self.may_match)])
        places = places[self.ngrams.contains(runs.values[places])]
        owners = np.searchsorted(runs.ends, places, "right")
        # Sorted by document, each n-gram of a document once.
        distinct = np.unique(np.stack([owners.astype(np.uint64), runs.values[places]]), axis=1)
        found, items = self.ngrams.find(distinct[1])
        pairs = np.stack([distinct[0][found].astype(np.int64), items])
        (documents, items), counts = np.unique(pairs, axis=1, return_counts=True)
        is_enough = counts >= self.needed[items]
        return _hits(documents[is_enough], items[is_enough], Rule.NGRAM, counts[is_enough])


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
