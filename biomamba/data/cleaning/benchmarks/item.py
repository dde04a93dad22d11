"""One item of a benchmark, and what every benchmark offers to the firewall."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from biomamba.data.sealed import sha256_of
from biomamba.data.text_files import read_json_file
from biomamba.runtime.errors import DataError


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

    def fingerprints(self) -> dict[str, str]:
        """Return the hash of each of its files by name.

        Raises:
            DataError: If one is missing.
        """

    def items(self) -> Iterator[Item]:
        """Iterate over its items in a fixed order.

        Raises:
            DataError: If a file is not of the layout of the benchmark.
        """

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the items, apart from the bytes of the files."""


def read_json(path: Path) -> Any:
    """Read a benchmark file of one JSON value.

    Raises:
        DataError: If it is no JSON.
    """
    return read_json_file(path)


def hash_files(paths: Sequence[Path]) -> dict[str, str]:
    """Return the hash of each file by name.

    Raises:
        DataError: If two files share a name.
    """
    hashes = {path.name: f"sha256:{sha256_of(path)}" for path in paths}
    if len(hashes) < len(paths):
        raise DataError(f"benchmark files share a name: {', '.join(map(str, paths))}; rename one")
    return hashes


def text_list(value: Any) -> list[str] | None:
    """Return a text, a list of texts or null as a list of texts; None for anything else."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        return None
    return values
