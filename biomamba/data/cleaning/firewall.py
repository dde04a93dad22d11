"""Documents that hold the items of a benchmark: by PMID, by title, by word n-grams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from biomamba.data.cleaning.benchmarks.item import Benchmark
from biomamba.data.cleaning.item_index import HIT_DTYPE, Hits, ItemIndex
from biomamba.data.cleaning.words import HashRows
from biomamba.data.document import Document
from biomamba.runtime.numbers import check_number, check_whole


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
