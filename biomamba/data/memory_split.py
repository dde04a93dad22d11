"""Documents that lie in no store."""

from collections.abc import Sequence
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.document import document_key
from biomamba.data.supervision import Supervision
from biomamba.data.token_split import DocumentTable, TokenSplit

Ints = NDArray[np.int64]


class MemorySplit(TokenSplit):
    """Tokens of documents in main memory, read as those of a store are.

    Args:
        documents: Tokens of each document, its end included.
        eod_id: Id that begins every document, and ends one that is whole.
        ids: Name of each document.
        num_bytes: UTF-8 bytes of what is scored of each document.
        supervision: What is learned of the documents; None: every token, all alike.
    """

    def __init__(
        self,
        documents: Sequence[Sequence[int]],
        eod_id: int,
        *,
        ids: Sequence[str],
        num_bytes: Sequence[int],
        supervision: Supervision | None = None,
    ) -> None:
        lengths = np.array([len(tokens) for tokens in documents], dtype=np.int64)
        table = DocumentTable(
            file=np.zeros_like(lengths),
            start=np.cumsum(lengths) - lengths,
            length=lengths,
            num_bytes=np.array(num_bytes, dtype=np.int64),
            key=np.array([document_key(name) for name in ids], dtype=np.uint64),
        )
        super().__init__([], np.dtype(np.int32), eod_id, table)
        self.supervision = supervision
        tokens = chain.from_iterable(documents)
        self.content = np.fromiter(tokens, dtype=np.int32, count=int(lengths.sum()))

    @property
    def digest(self) -> str:
        """sha256 of all that reaches a batch."""
        learned = self.supervision
        arrays: list[NDArray[Any]] = [self.lengths, self.num_bytes, self.keys, self.content]
        arrays += [learned.num_context, learned.weights] if learned is not None else []
        return sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    def parts(self, documents: Ints, starts: Ints, lengths: Ints) -> list[NDArray[Any]]:
        """Return parts of documents, from token `start` on."""
        begins = self.table.start[documents] + starts
        return [
            self.content[begin:end]
            for begin, end in zip(begins.tolist(), (begins + lengths).tolist(), strict=True)
        ]
