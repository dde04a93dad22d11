"""The tensors that reach the model, built from the pieces of packed rows.

A stored document is S = [t1 .. tn, EOD]. Its targets are S, its inputs [EOD, t1 .. tn]: EOD also
begins a document, so a document takes exactly its n + 1 positions, every token is predicted once
per epoch and bits per byte count every byte. A piece S[a:b] of a cut document has the targets
S[a:b] and continues with the input S[a-1].

Deviation: the released code of arXiv 2408.02600 appends no EOD and begins a text without one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomamba.data.packing import PackedRows
from biomamba.data.supervision import Supervision
from biomamba.data.token_split import TokenSplit

Ints = NDArray[np.int64]
IGNORED_TARGET = -100
# One piece of a document: the row of the batch that holds it, the position of its source in the
# order of the sources, the key of its document, its first token there and its tokens.
PIECE_DTYPE = np.dtype(
    [("row", "<u4"), ("source", "<u2"), ("key", "<u8"), ("start", "<u4"), ("tokens", "<u4")]
)


def _no_pieces() -> NDArray[Any]:
    return np.empty(0, dtype=PIECE_DTYPE)


@dataclass
class Batch:
    """Rows of one source each.

    Attributes:
        input_ids: (batch, length) int64; EOD at the padded end of a row.
        targets: (batch, length) int64; IGNORED_TARGET at padding and at what is only read.
        seq_idx: (batch, length) int32, not decreasing; number of the piece within its row, the
            padding counts as one more piece.
        source: (batch,) int64; position of the row's source in the order of the sources.
        num_bytes: (batch,) int64; UTF-8 bytes of the documents that start in the row.
        row_ids: (batch,) int64; number of the row in the stream, -1 for an empty row.
        document: (batch, length) int64; index of the document in its split, -1 at padding. Only in
            evaluation, else None.
        weights: (batch, length) float32; weight of each target in the loss, 0 where there is none.
            None: all count alike. The batches of a run have it, or none has.
        pieces: (pieces,) PIECE_DTYPE; what the rows hold, in order. It stays on the CPU.
    """

    input_ids: Tensor
    targets: Tensor
    seq_idx: Tensor
    source: Tensor
    num_bytes: Tensor
    row_ids: Tensor
    document: Tensor | None = None
    weights: Tensor | None = None
    pieces: NDArray[Any] = field(default_factory=_no_pieces)

    @property
    def num_target_tokens(self) -> int:
        """Number of positions that are scored."""
        return int((self.targets != IGNORED_TARGET).sum())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Copy the tensors to a device; Lightning calls this too."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Copy the tensors to page-locked memory; the data loader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def split(self, num_rows: int) -> "list[Batch]":
        """Cut into batches of at most so many rows, which share the memory of this one.

        A worker process hands memory over by file descriptor: shared, a step needs a handful of
        them however many micro-batches it has.
        """
        tensors: dict[str, Any] = {
            name: torch.split(value, num_rows)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        first_rows = np.arange(num_rows, len(self.targets), num_rows)
        cuts = np.searchsorted(self.pieces["row"], first_rows)
        pieces = self.pieces.copy()
        pieces["row"] %= num_rows
        return [
            Batch(**{name: parts[place] for name, parts in tensors.items()}, pieces=part)
            for place, part in enumerate(np.split(pieces, cuts))
        ]

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


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


@dataclass(frozen=True)
class PieceContents:
    """The pieces of a batch in the order of its rows, and what they hold.

    Attributes:
        pieces: (pieces,) PIECE_DTYPE.
        tokens: The tokens of each piece.
        previous: (pieces,); the token before each piece, EOD before the start of a document.
        num_bytes: (pieces,); UTF-8 bytes of the document, 0 for a piece that continues one.
        document: (pieces,); index of the document in its split.
        supervision: What is learned of the pieces; None: every token, all alike.
    """

    pieces: NDArray[Any]
    tokens: list[NDArray[Any]]
    previous: Ints
    num_bytes: Ints
    document: Ints
    supervision: Supervision | None = None

    @classmethod
    def merge(cls, parts: "Sequence[PieceContents]") -> "PieceContents":
        """Bring the pieces of several sources in the order of the rows."""
        pieces = np.concatenate([part.pieces for part in parts])
        tokens = [piece for part in parts for piece in part.tokens]
        order = np.argsort(pieces["row"], kind="stable")
        return cls(
            pieces[order],
            [tokens[place] for place in order.tolist()],
            np.concatenate([part.previous for part in parts])[order],
            np.concatenate([part.num_bytes for part in parts])[order],
            np.concatenate([part.document for part in parts])[order],
            Supervision.merge([part.supervision for part in parts], order),
        )


def build_batch(
    requests: Sequence[RowRequest], seq_len: int, *, with_documents: bool = False
) -> Batch:
    """Build a batch of the requested rows, in order."""
    return lay_out(
        _read(requests),
        source=np.array([request.source.index for request in requests], dtype=np.int64),
        row_ids=np.array([request.row_id for request in requests], dtype=np.int64),
        seq_len=seq_len,
        eod_id=requests[0].source.split.eod_id,
        with_documents=with_documents,
    )


def empty_batch(source: PlannedSource, num_rows: int, seq_len: int) -> Batch:
    """Build a batch without targets, for a rank that has run out of rows."""
    none = np.empty(0, dtype=np.int64)
    return lay_out(
        PieceContents(
            _no_pieces(),
            [],
            none,
            none,
            none,
            source.split.supervision and Supervision.of_nothing(),
        ),
        source=np.full(num_rows, source.index, dtype=np.int64),
        row_ids=np.full(num_rows, -1, dtype=np.int64),
        seq_len=seq_len,
        eod_id=source.split.eod_id,
        with_documents=True,
    )


def lay_out(
    contents: PieceContents,
    *,
    source: Ints,
    row_ids: Ints,
    seq_len: int,
    eod_id: int,
    with_documents: bool = False,
) -> Batch:
    """Put pieces one behind the other in their rows and pad the rows.

    Args:
        contents: The pieces; those of a row fit in seq_len.
        source: (rows,); source of each row.
        row_ids: (rows,); number of each row in the stream.
        seq_len: Positions of a row.
        eod_id: Input at the padded end of a row.
        with_documents: Fill Batch.document.
    """
    row = contents.pieces["row"].astype(np.int64)
    lengths = contents.pieces["tokens"].astype(np.int64)
    num_pieces = np.bincount(row, minlength=len(source))
    number = np.arange(len(row)) - (np.cumsum(num_pieces) - num_pieces)[row]
    is_filled = np.arange(seq_len) < _sum_by_row(row, lengths, len(source))[:, None]

    def spread(values: NDArray[Any], padding: int, dtype: Any = np.int64) -> Tensor:
        positions = np.full(is_filled.shape, padding, dtype=dtype)
        positions[is_filled] = values
        return torch.from_numpy(positions)

    targets = np.concatenate(contents.tokens) if contents.tokens else np.empty(0, dtype=np.int64)
    inputs = np.empty_like(targets)
    inputs[1:] = targets[:-1]
    inputs[np.cumsum(lengths) - lengths] = contents.previous
    seq_idx = np.repeat(num_pieces[:, None], seq_len, axis=1).astype(np.int32)
    seq_idx[is_filled] = np.repeat(number, lengths)
    weights = contents.supervision.token_weights(lengths) if contents.supervision else None
    if weights is not None:
        targets = np.where(weights > 0, targets, IGNORED_TARGET)
    return Batch(
        input_ids=spread(inputs, eod_id),
        targets=spread(targets, IGNORED_TARGET),
        seq_idx=torch.from_numpy(seq_idx),
        source=torch.from_numpy(source),
        num_bytes=torch.from_numpy(_sum_by_row(row, contents.num_bytes, len(source))),
        row_ids=torch.from_numpy(row_ids),
        document=spread(np.repeat(contents.document, lengths), -1) if with_documents else None,
        weights=None if weights is None else spread(weights, 0, np.float32),
        pieces=contents.pieces,
    )


def _read(requests: Sequence[RowRequest]) -> PieceContents:
    """Read the pieces of the requested rows."""
    sources = {request.source.index: request.source for request in requests}
    index = np.array([request.source.index for request in requests])
    row = np.array([request.row for request in requests], dtype=np.int64)
    parts = []
    for source in sources.values():
        (places,) = np.nonzero(index == source.index)
        parts.append(_read_source(source, places, row[places]))
    return PieceContents.merge(parts)


def _read_source(source: PlannedSource, places: Ints, rows: Ints) -> PieceContents:
    """Read the pieces of rows of one source, which get the given places in the batch."""
    split, plan = source.split, source.plan
    begin = plan.row_offsets[rows]
    counts = plan.row_offsets[rows + 1] - begin
    piece = np.repeat(begin - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    document, start = plan.piece_document[piece], plan.piece_start[piece]
    length = plan.piece_length[piece]
    pieces = np.empty(len(piece), dtype=PIECE_DTYPE)
    pieces["row"] = np.repeat(places, counts)
    pieces["source"] = source.index
    pieces["key"] = split.keys[document]
    pieces["start"] = start
    pieces["tokens"] = length
    previous = np.full(len(piece), split.eod_id, dtype=np.int64)
    (cut,) = np.nonzero(start)
    before = split.parts(document[cut], start[cut] - 1, np.ones_like(cut))
    previous[cut] = np.concatenate([*before, np.empty(0, dtype=np.int64)])
    return PieceContents(
        pieces,
        split.parts(document, start, length),
        previous,
        np.where(start == 0, split.num_bytes[document], 0),
        document,
        split.supervision and split.supervision.of_pieces(document, start, length),
    )


def _sum_by_row(row: Ints, values: Ints, num_rows: int) -> Ints:
    """Sum integers below 2**53 per row."""
    return np.bincount(row, weights=values, minlength=num_rows).astype(np.int64)
