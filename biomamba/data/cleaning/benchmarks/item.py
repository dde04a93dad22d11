"""One item of a benchmark, and what every benchmark offers to the firewall."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Item:
    """A question or article that a model will be tested on.

    Attributes:
        id: Name within the benchmark.
        texts: What must not be trained on; an n-gram never crosses two of them.
        pmids: PubMed articles that hold the answer.
        title: Title of the Wikipedia article that the item is; None if it is none.
    """

    id: str
    texts: Sequence[str]
    pmids: Sequence[str] = ()
    title: str | None = None


class Benchmark(Protocol):
    """A benchmark that the user has as files."""

    def paths(self) -> Sequence[Path]:
        """Return its files."""

    def items(self) -> Iterator[Item]:
        """Iterate over its items in a fixed order."""

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the items, apart from the bytes of the files."""
