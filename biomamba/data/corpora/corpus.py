"""What every corpus offers to the prepare stage."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from biomamba.data.document import Document, Reject
from biomamba.data.rows import RawShard


class Corpus(Protocol):
    """A row source together with the rule that turns its rows into documents."""

    @property
    def domain(self) -> str:
        """Name of the kind of text."""

    @property
    def licence(self) -> str:
        """Terms under which the text may be used; written into the manifest."""

    def shards(self) -> Sequence[RawShard]:
        """Return the raw shards in a fixed order."""

    def documents(self, shard: RawShard) -> Iterator[Document | Reject]:
        """Turn the rows of one raw shard into documents, in order."""

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents, apart from the raw bytes."""
