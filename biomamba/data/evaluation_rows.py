"""Score every document of a split exactly once, whatever the number of ranks.

Rows are packed best-fit whatever the packing of the training: only documents longer than a row
are cut, so the figures of two runs compare.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from biomamba.data.batches import Batch, PlannedSource, RowRequest, build_batch, empty_batch
from biomamba.data.loader import WORKER_TIMEOUT_SECONDS, WorkerLoader
from biomamba.data.packing import BestFit
from biomamba.data.store_reader import (
    OpenStore,
    content_fingerprint,
    open_stores,
    verify_stores,
)
from biomamba.data.token_split import TokenSplit
from biomamba.runtime.errors import DataError


class DocumentRows:
    """Documents of one source in rows, each document once.

    Args:
        documents: The documents.
        seq_len: Positions of a row.
        batch_size: Rows of a batch.
        source_index: Position of the source in the order of the sources.
    """

    def __init__(
        self, documents: TokenSplit, *, seq_len: int, batch_size: int, source_index: int = 0
    ) -> None:
        self._source = PlannedSource(
            source_index, documents, BestFit().plan(documents.lengths, seq_len)
        )
        self._seq_len = seq_len
        self._batch_size = batch_size

    @property
    def num_bytes(self) -> NDArray[np.int64]:
        """(documents,) UTF-8 bytes of each document; Batch.document indexes it."""
        return self._source.split.num_bytes

    @property
    def keys(self) -> NDArray[np.uint64]:
        """(documents,) key of each document."""
        return self._source.split.keys

    @property
    def num_batches(self) -> int:
        """Number of batches over all ranks."""
        return -(-self._source.plan.num_rows // self._batch_size)

    def batch(self, number: int) -> Batch:
        """Return one batch; beyond the last one an empty batch."""
        begin = number * self._batch_size
        end = min(begin + self._batch_size, self._source.plan.num_rows)
        if begin >= end:
            return empty_batch(self._source, 1, self._seq_len)
        requests = [RowRequest(self._source, row, row) for row in range(begin, end)]
        return build_batch(requests, self._seq_len, with_documents=True)

    def batches(self, description: str | None = None) -> Iterator[Batch]:
        """Iterate over all batches; a description shows a progress line on stderr."""
        numbers = range(self.num_batches)
        console = Console(stderr=True)
        shown = numbers if description is None else track(numbers, description, console=console)
        for number in shown:
            yield self.batch(number)

    def loader(
        self,
        *,
        rank: int,
        world_size: int,
        num_workers: int = 0,
        timeout_seconds: float | None = WORKER_TIMEOUT_SECONDS,
    ) -> DataLoader[Batch]:
        """Load the batches of one rank; all ranks get equally many, the surplus is empty."""
        return WorkerLoader(
            _RankBatches(self, rank, world_size),
            num_workers=num_workers,
            timeout_seconds=timeout_seconds,
        )


class EvaluationRows(DocumentRows):
    """The packed documents of one split of one source.

    Args:
        stores: The stores of the source.
        split: `val` or `test`.
        seq_len: Positions of a row.
        batch_size: Rows of a batch.
        max_documents: Only so many documents, those with the smallest keys; None for all.
        min_document_tokens: Only documents of at least so many tokens, EOD included.
        source_index: Position of the source in the order of the sources.

    Raises:
        DataError: If no document is left.
    """

    def __init__(
        self,
        stores: Sequence[OpenStore],
        split: str,
        *,
        seq_len: int,
        batch_size: int,
        max_documents: int | None,
        min_document_tokens: int = 1,
        source_index: int = 0,
    ) -> None:
        found = TokenSplit.open(stores, split)
        folders = ", ".join(str(store.folder) for store in stores)
        if not len(found):
            raise DataError(
                f"the {split} split of {folders} is empty; prepare it with a larger "
                f"split.{split}_permille"
            )
        documents = found.of_length(min_document_tokens).first_by_key(max_documents)
        if not len(documents):
            raise DataError(
                f"no document of the {split} split of {folders} has {min_document_tokens} tokens, "
                f"the longest has {found.lengths.max()}: lower min_document_tokens"
            )
        super().__init__(
            documents, seq_len=seq_len, batch_size=batch_size, source_index=source_index
        )
        self.documents = documents
        self.vocab_size = stores[0].manifest.vocab_size
        self.tokenizer_fingerprint = stores[0].manifest.tokenizer
        self.fingerprint = content_fingerprint(
            {
                "stores": [store.fingerprint for store in stores],
                "split": split,
                "seq_len": seq_len,
                "documents": len(documents),
                "min_document_tokens": min_document_tokens,
            }
        )


class _RankBatches(Dataset[Batch]):
    """Every world_size-th batch."""

    def __init__(self, rows: DocumentRows, rank: int, world_size: int) -> None:
        self._rows = rows
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        return -(-self._rows.num_batches // self._world_size)

    def __getitem__(self, index: int) -> Batch:
        if index >= len(self):
            raise IndexError(index)
        return self._rows.batch(index * self._world_size + self._rank)


def open_evaluation_rows(
    stores: Sequence[str],
    *,
    split: str,
    seq_len: int,
    batch_size: int,
    max_documents: int | None = None,
    min_document_tokens: int = 1,
) -> EvaluationRows:
    """Verify stores by hash and open one of their splits for evaluation.

    Raises:
        DataError: If a store is missing or damaged, or the split is empty.
    """
    opened = open_stores(stores)
    verify_stores(opened, "full")
    return EvaluationRows(
        opened,
        split,
        seq_len=seq_len,
        batch_size=batch_size,
        max_documents=max_documents,
        min_document_tokens=min_document_tokens,
    )
