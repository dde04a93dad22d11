"""The texts of a benchmark as a corpus: what leakage is worth can only be measured by causing it.

With the firewall on, prepare leaves every one of these documents out. `firewall=false` keeps them,
so that a leaky twin can be trained beside a clean one and the difference reported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from biomamba.data.cleaning.benchmarks import Benchmark
from biomamba.data.document import Document, Reject
from biomamba.data.rows import RawShard, Row


@dataclass(frozen=True)
class BenchmarkTexts:
    """One document per item of a benchmark: its texts, joined.

    Attributes:
        benchmark: The benchmark, as the firewall reads it.
        domain: Name of the kind of text.
        licence: Terms of use, written into the manifest.
        separator: Text between two texts of an item.
    """

    benchmark: Benchmark
    domain: str
    licence: str
    separator: str = "\n\n"

    def shards(self) -> Sequence[RawShard]:
        """Return the one raw shard."""
        return [_ItemShard(self.benchmark)]

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents, apart from the raw bytes."""
        return {
            "layout": type(self).__name__,
            "benchmark": self.benchmark.settings(),
            "separator": self.separator,
        }

    def documents(self, shard: RawShard) -> Iterator[Document | Reject]:
        """Turn every item into a document; one without text is left out and counted."""
        for row in shard.rows():
            if isinstance(row, Reject):
                yield row
                continue
            text = self.separator.join(filter(None, (text.strip() for text in row["texts"])))
            yield Document(text, row["id"], self.domain) if text else Reject("no text", row["id"])


@dataclass(frozen=True)
class _ItemShard:
    """All items of a benchmark."""

    benchmark: Benchmark

    @property
    def name(self) -> str:
        """Name of the only shard."""
        return "items"

    def fingerprint(self) -> str:
        """Hash the names and hashes of the files of the benchmark."""
        found = sorted(self.benchmark.fingerprints().items())
        return f"sha256:{sha256(repr(found).encode()).hexdigest()}"

    def rows(self) -> Iterator[Row | Reject]:
        """Iterate over the items."""
        for item in self.benchmark.items():
            yield {"id": item.id, "texts": list(item.texts)}
