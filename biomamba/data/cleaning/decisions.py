"""Decide over a whole set which documents stay and which split each belongs to.

Nothing depends on the order or the number of the raw files: where one of several documents stays,
the corpora in the order of the set and then the key of the document choose it. The one exception
are rows of the same id within a corpus, of which the first stays.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from biomamba.data.cleaning.benchmark_filter import Hits
from biomamba.data.cleaning.ngrams import Hashes, odd_factors, scramble
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import SplitRule
from biomamba.data.prepare.staging import BAND_DTYPE, StagedRecord, StagedShard
from biomamba.runtime.errors import DataError

Places = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Verdict(IntEnum):
    """What becomes of a document."""

    KEPT = 0
    DUPLICATE_ID = 1
    DUPLICATE_TEXT = 2
    NEAR_DUPLICATE = 3
    BENCHMARK = 4

    @property
    def reason(self) -> str:
        """The words under which the document is counted."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class ShardTable:
    """The marks of one shard, one entry per document in raw order.

    Attributes:
        corpus: Name of the corpus.
        domain: Its domain; ids are compared within a domain.
        key: Hash of the id.
        group: Hash of the group, or of the id of a document without one.
        text: Hash of the normalized words.
        bands: `(documents, bands)`; may be a memory map.
        hits: HIT_DTYPE; `document` is the place in the shard.
    """

    corpus: str
    domain: str
    key: Hashes
    group: Hashes
    text: Hashes
    bands: Hashes
    hits: Hits


@dataclass(frozen=True)
class Decision:
    """What becomes of the documents of one shard.

    Attributes:
        verdict: Verdict of each document, uint8.
        split: Place in SPLITS of each document, uint8; of no meaning for those left out.
        cluster: Number of the cluster of near-duplicates within the set, 0 for a document that
            has none.
    """

    verdict: NDArray[np.uint8]
    split: NDArray[np.uint8]
    cluster: NDArray[np.uint32]


def decide(tables: Sequence[ShardTable], cleaning: Cleaning, rule: SplitRule) -> list[Decision]:
    """Decide over all documents of a set.

    A document whose id or text is that of a benchmark document is one too. Clusters of
    near-duplicates and documents of one group, in whatever corpora, share the split of their
    smallest group key; what is left out binds nobody.

    Args:
        tables: All shards, the corpora in the order of the set.
        cleaning: What is left out.
        rule: The split of a group key.
    """
    if not tables:
        return []
    all_documents = _Documents.of(tables)
    verdict = _verdicts_alone(all_documents, cleaning)
    kept = np.flatnonzero(verdict == Verdict.KEPT)
    cluster = np.zeros(verdict.size, np.uint32)
    near = list(_near_links(tables, all_documents, kept))
    cluster[kept] = _numbered(_components(near, kept.size))
    if cleaning.near_duplicates is not None and cleaning.near_duplicates.drop:
        is_first = _first_of_each(cluster[kept], all_documents.rank(kept)) | (cluster[kept] == 0)
        verdict[kept[~is_first]] = Verdict.NEAR_DUPLICATE
        kept, near = kept[is_first], []
    group = all_documents.group[kept]
    component = _components([*near, _equal_pairs(group)], kept.size)
    split = np.zeros(verdict.size, np.uint8)
    split[kept] = rule.indices(_smallest(component, group))
    ends = np.cumsum([table.key.size for table in tables])[:-1]
    parts = (np.split(values, ends) for values in (verdict, split, cluster))
    return [Decision(*part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class _Documents:
    """All documents of the set, table after table.

    Attributes:
        corpus: Place of the corpus in the set.
        name: Hash of domain and id.
        key: Hash of the id.
        group: Hash of the group.
        text: Hash of the text.
        is_hit: Whether a benchmark item was found in it.
    """

    corpus: NDArray[np.int16]
    name: Hashes
    key: Hashes
    group: Hashes
    text: Hashes
    is_hit: Mask

    @classmethod
    def of(cls, tables: Sequence[ShardTable]) -> "_Documents":
        sizes = [table.key.size for table in tables]
        corpora = list(dict.fromkeys(table.corpus for table in tables))
        domains = list(dict.fromkeys(table.domain for table in tables))
        places = np.array([corpora.index(table.corpus) for table in tables], np.int16)
        salts = odd_factors(len(domains))[[domains.index(table.domain) for table in tables]]
        key = np.concatenate([table.key for table in tables])
        is_hit = [np.bincount(t.hits["document"], minlength=t.key.size) > 0 for t in tables]
        return cls(
            corpus=np.repeat(places, sizes),
            name=scramble(key + np.repeat(salts, sizes)),
            key=key,
            group=np.concatenate([table.group for table in tables]),
            text=np.concatenate([table.text for table in tables]),
            is_hit=np.concatenate(is_hit),
        )

    def rank(self, places: Places) -> tuple[NDArray[np.int16], Hashes]:
        """Return what chooses among equal documents, the most important part first."""
        return self.corpus[places], self.key[places]


def _verdicts_alone(documents: _Documents, cleaning: Cleaning) -> NDArray[np.uint8]:
    """Return the verdicts that need no clusters."""
    verdict = np.zeros(documents.key.size, np.uint8)
    is_first = np.zeros(verdict.size, np.bool_)
    is_first[np.unique(documents.name, return_index=True)[1]] = True
    verdict[~is_first] = Verdict.DUPLICATE_ID
    is_benchmark = documents.is_hit
    for values in (documents.name, documents.text):
        is_benchmark = is_benchmark | _is_among(values, values[documents.is_hit])
    verdict[is_benchmark] = Verdict.BENCHMARK
    if cleaning.exact_duplicates:
        left = np.flatnonzero(verdict == Verdict.KEPT)
        is_copy = ~_first_of_each(documents.text[left], documents.rank(left))
        verdict[left[is_copy]] = Verdict.DUPLICATE_TEXT
    return verdict


def _near_links(
    tables: Sequence[ShardTable], documents: _Documents, kept: Places
) -> Iterator[tuple[Places, Places]]:
    """Yield pairs of places in `kept`: equal texts, then equal bands, one column in memory."""
    yield _equal_pairs(documents.text[kept])
    for column in range(tables[0].bands.shape[1]):
        yield _equal_pairs(np.concatenate([table.bands[:, column] for table in tables])[kept])


def _equal_pairs(values: Hashes) -> tuple[Places, Places]:
    """Return pairs of places that link all places of an equal value."""
    order = np.argsort(values)
    is_equal = values[order[1:]] == values[order[:-1]]
    return order[:-1][is_equal], order[1:][is_equal]


def _components(links: Iterable[tuple[Places, Places]], size: int) -> NDArray[np.int32]:
    pairs = list(links)
    rows = np.concatenate([pair[0] for pair in pairs])
    columns = np.concatenate([pair[1] for pair in pairs])
    graph = coo_array((np.ones(rows.size, np.bool_), (rows, columns)), shape=(size, size))
    labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels


def _numbered(component: NDArray[np.int32]) -> NDArray[np.uint32]:
    """Number the components of several members from 1; 0 for those of one."""
    is_cluster = np.bincount(component) > 1
    return np.where(is_cluster, np.cumsum(is_cluster), 0).astype(np.uint32)[component]


def _smallest(component: NDArray[np.int32], keys: Hashes) -> Hashes:
    """Return for each place the smallest key of its component."""
    smallest = np.full(component.max(initial=-1) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, component, keys)
    return smallest[component]


def _first_of_each(values: NDArray[np.generic], rank: Sequence[NDArray[np.generic]]) -> Mask:
    """Return for each place whether it ranks first among those of its value."""
    order = np.lexsort([*reversed(rank), values])
    is_first = np.ones(order.size, np.bool_)
    is_first[1:] = values[order[1:]] != values[order[:-1]]
    mask = np.empty(order.size, np.bool_)
    mask[order] = is_first
    return mask


def _is_among(values: Hashes, few: Hashes) -> Mask:
    """Return which values are among a few others."""
    if not few.size:
        return np.zeros(values.size, np.bool_)
    ordered = np.unique(few)
    place = np.minimum(np.searchsorted(ordered, values), ordered.size - 1)
    is_among: Mask = ordered[place] == values
    return is_among


# -------------------------------------------------------------------------------------------------
# The marks of all staged shards of a set, as the arrays that the decision works on.
#
# Keys and hashes are in memory, 24 bytes a document. The bands, far more, are laid out band by band
# in one unlinked file behind a memory map: a decision reads them one band at a time.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StagedSource:
    """A staged shard and what it belongs to."""

    corpus: str
    domain: str
    staged: StagedShard
    record: StagedRecord


def shard_tables(sources: Sequence[StagedSource], scratch: Path) -> list[ShardTable]:
    """Read the marks of staged shards.

    Args:
        sources: The shards, the corpora in the order of the set.
        scratch: A folder with room for the bands.

    Raises:
        DataError: If there is no room for them.
    """
    bands = _all_bands(sources, scratch)
    tables = []
    first = 0
    for source in sources:
        index = source.staged.index()
        stop = first + index.size
        table = ShardTable(
            corpus=source.corpus,
            domain=source.domain,
            key=np.ascontiguousarray(index["key"]),
            group=np.ascontiguousarray(index["group"]),
            text=np.ascontiguousarray(index["text"]),
            bands=bands[:, first:stop].T,
            hits=source.staged.hits(),
        )
        tables.append(table)
        first = stop
    return tables


def _all_bands(sources: Sequence[StagedSource], scratch: Path) -> Hashes:
    """Return the bands of all documents, `(bands, documents)`."""
    num_documents = sum(source.record.num_documents for source in sources)
    num_bands = max((source.record.num_bands for source in sources), default=0)
    if not num_bands:
        return np.empty((0, num_documents), dtype=BAND_DTYPE)
    try:
        with TemporaryFile(dir=scratch) as file:
            for band in range(num_bands):
                for source in sources:
                    if source.record.num_documents:
                        column = source.staged.band(band, source.record.num_documents)
                        file.write(column.tobytes())
            file.flush()
            shape = (num_bands, num_documents)
            return np.memmap(file, dtype=BAND_DTYPE, mode="r", shape=shape)
    except OSError as error:
        raise DataError(
            f"cannot lay out the near-duplicate bands in {scratch} ({error.strerror}); "
            "make room and run again"
        ) from error
