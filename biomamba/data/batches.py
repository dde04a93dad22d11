"""The tensors that reach the model, built from the pieces of packed rows.

A stored document is S = [t1 .. tn, EOD]. Its targets are S, its inputs [EOD, t1 .. tn]: EOD also
begins a document, so a document takes exactly its n + 1 positions, every token is predicted once
per epoch and bits per byte count every byte. A piece S[a:b] of a cut document has the targets
S[a:b] and continues with the input S[a-1].

Deviation: the released code of arXiv 2408.02600 appends no EOD and begins a text without one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from biomamba.data.packing import PackedRows
from biomamba.data.token_split import TokenSplit

IGNORED_TARGET = -100


@dataclass
class Batch:
    """Rows of one source each.

    Attributes:
        input_ids: (batch, length) int64; EOD at the padded end of a row.
        targets: (batch, length) int64; IGNORED_TARGET at padding.
        seq_idx: (batch, length) int32, not decreasing; number of the piece within its row, the
            padding counts as one more piece.
        source: (batch,) int64; position of the row's source in the order of the sources.
        num_bytes: (batch,) int64; UTF-8 bytes of the documents that start in the row.
        row_ids: (batch,) int64; number of the row in the stream, -1 for an empty row.
        document: (batch, length) int64; index of the document in its split, -1 at padding. Only in
            evaluation, else None.
    """

    input_ids: Tensor
    targets: Tensor
    seq_idx: Tensor
    source: Tensor
    num_bytes: Tensor
    row_ids: Tensor
    document: Tensor | None = None

    @property
    def num_target_tokens(self) -> int:
        """Number of positions that are scored."""
        return int((self.targets != IGNORED_TARGET).sum())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Copy to a device; Lightning calls this too."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Copy to page-locked memory; the data loader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self,
            **{name: change(tensor) for name, tensor in tensors.items() if tensor is not None},
        )


@dataclass(frozen=True)
class PlannedSource:
    """The documents of one source and their rows.

    Attributes:
        index: Position of the source in the order of the sources.
        split: The documents.
        plan: The rows.
    """

    index: int
    split: TokenSplit
    plan: PackedRows


@dataclass(frozen=True)
class RowRequest:
    """One row of a batch: which row of which source, under which number."""

    source: PlannedSource
    row: int
    row_id: int


def build_batch(
    requests: Sequence[RowRequest], seq_len: int, *, with_documents: bool = False
) -> Batch:
    """Build a batch of the requested rows, in order."""
    rows = _Rows(len(requests), seq_len, requests[0].source.split.eod_id)
    for number, request in enumerate(requests):
        rows.fill(number, request)
    return rows.batch(with_documents=with_documents)


def empty_batch(source: PlannedSource, num_rows: int, seq_len: int) -> Batch:
    """Build a batch without targets, for a rank that has run out of rows."""
    rows = _Rows(num_rows, seq_len, source.split.eod_id)
    rows.source[:] = source.index
    return rows.batch(with_documents=True)


class _Rows:
    """A batch in the making."""

    def __init__(self, num_rows: int, seq_len: int, eod_id: int) -> None:
        shape = (num_rows, seq_len)
        self.input_ids = np.full(shape, eod_id, dtype=np.int64)
        self.targets = np.full(shape, IGNORED_TARGET, dtype=np.int64)
        self.seq_idx = np.zeros(shape, dtype=np.int32)
        self.document = np.full(shape, -1, dtype=np.int64)
        self.source = np.zeros(num_rows, dtype=np.int64)
        self.num_bytes = np.zeros(num_rows, dtype=np.int64)
        self.row_ids = np.full(num_rows, -1, dtype=np.int64)

    def fill(self, number: int, request: RowRequest) -> None:
        """Write the pieces of one row one behind the other."""
        split = request.source.split
        self.source[number] = request.source.index
        self.row_ids[number] = request.row_id
        begin = 0
        for piece, (document, start, length) in enumerate(request.source.plan.pieces(request.row)):
            end = begin + length
            tokens = split.tokens(document, max(start - 1, 0), start + length)
            self.targets[number, begin:end] = tokens[-length:]
            # The position before the first token keeps the EOD it was filled with.
            self.input_ids[number, end - len(tokens) + 1 : end] = tokens[:-1]
            self.seq_idx[number, begin:] = piece
            self.document[number, begin:end] = document
            if start == 0:
                self.num_bytes[number] += split.num_bytes[document]
            begin = end
        if 0 < begin < self.seq_idx.shape[1]:
            self.seq_idx[number, begin:] = self.seq_idx[number, begin - 1] + 1

    def batch(self, *, with_documents: bool) -> Batch:
        """Hand the arrays over as tensors."""
        return Batch(
            input_ids=torch.from_numpy(self.input_ids),
            targets=torch.from_numpy(self.targets),
            seq_idx=torch.from_numpy(self.seq_idx),
            source=torch.from_numpy(self.source),
            num_bytes=torch.from_numpy(self.num_bytes),
            row_ids=torch.from_numpy(self.row_ids),
            document=torch.from_numpy(self.document) if with_documents else None,
        )
