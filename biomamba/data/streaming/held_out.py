"""Validation documents of a stream: the first that the split rule holds out, kept in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from biomamba.data.document import Document, document_key
from biomamba.data.streaming.admission import Admission
from biomamba.data.streaming.source import StreamedSource
from biomamba.data.token_split import DocumentTable, TokenSplit
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError
from biomamba.runtime.ranks import is_rank_zero

Ints = NDArray[np.int64]


class DocumentsInMemory(TokenSplit):
    """Tokenised documents that lie in no store.

    Args:
        documents: The documents.
        tokenizer: Encodes them.
    """

    def __init__(self, documents: Sequence[Document], tokenizer: Tokenizer) -> None:
        encoded = tokenizer.encode_batch([document.text for document in documents])
        lengths = np.array([len(ids) + 1 for ids in encoded], dtype=np.int64)
        table = DocumentTable(
            file=np.zeros_like(lengths),
            start=np.cumsum(lengths) - lengths,
            length=lengths,
            num_bytes=np.array([len(d.text.encode("utf-8")) for d in documents], dtype=np.int64),
            key=np.array([document_key(d.id) for d in documents], dtype=np.uint64),
        )
        super().__init__([], np.dtype(np.int32), tokenizer.eod_id, table)
        self._content = np.array(
            [token for ids in encoded for token in (*ids, tokenizer.eod_id)], dtype=np.int32
        )

    def parts(self, documents: Ints, starts: Ints, lengths: Ints) -> list[NDArray[Any]]:
        """Return parts of documents, from token `start` on."""
        begins = self.table.start[documents] + starts
        return [
            self._content[begin:end]
            for begin, end in zip(begins.tolist(), (begins + lengths).tolist(), strict=True)
        ]


def held_out_documents(
    source: StreamedSource, admission: Admission, max_documents: int, max_bad_fraction: float
) -> list[Document]:
    """Read the first validation documents of a source, in the order of its shards.

    Progress goes to stderr, of rank zero only.

    Raises:
        DataError: If a whole pass over the source finds none.
    """
    found: list[Document] = []
    with Progress(console=Console(stderr=True), disable=not is_rank_zero()) as progress:
        task = progress.add_task(f"validation documents of {source.name}", total=max_documents)
        for shard in source.shards:
            for _, document in shard.documents(max_bad_fraction):
                if admission.is_of("val", document):
                    found += admission.without_benchmarks([document])
                    progress.update(task, completed=len(found))
                if len(found) == max_documents:
                    return found
    if not found:
        raise DataError(
            f"source {source.name!r} has no validation documents; raise split.val_permille"
        )
    return found
