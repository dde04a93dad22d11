"""Lay documents out in rows of seq_len positions; no token is repeated.

None is lost either, unless the packing is told to drop what exceeds a row.

A plan is a list of pieces (document, start, length) grouped into rows. Documents keep their own
state: the model resets it at every piece, so rows may hold several documents.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PackedRows:
    """A plan of rows.

    Attributes:
        row_offsets: (rows + 1,); row r holds the pieces row_offsets[r] to row_offsets[r + 1].
        piece_document: (pieces,); index of the document.
        piece_start: (pieces,); first token of the piece within its document.
        piece_length: (pieces,); tokens of the piece.
    """

    row_offsets: Ints
    piece_document: Ints
    piece_start: Ints
    piece_length: Ints

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.row_offsets) - 1

    def pieces(self, row: int) -> Iterator[tuple[int, int, int]]:
        """Iterate over (document, start, length) of one row."""
        for piece in range(self.row_offsets[row], self.row_offsets[row + 1]):
            yield (
                int(self.piece_document[piece]),
                int(self.piece_start[piece]),
                int(self.piece_length[piece]),
            )


class Packing(Protocol):
    """A way to lay documents out in rows."""

    def plan(self, lengths: Ints, seq_len: int) -> PackedRows:
        """Plan the rows of documents with these lengths in tokens; deterministic."""


@dataclass(frozen=True)
class BestFit:
    """Best-fit decreasing: the longest piece first, each into the fullest row that takes it.

    Documents longer than a row are cut into full rows and a rest; no other document is cut.

    Source: Ding et al., Fewer Truncations Improve Language Modeling, arXiv 2404.10830, section 3.
    """

    def plan(self, lengths: Ints, seq_len: int) -> PackedRows:
        """Plan the rows of documents with these lengths in tokens; deterministic."""
        document, start, length = _cut(lengths, seq_len)
        order = np.argsort(-length, kind="stable")
        row = np.empty(len(order), dtype=np.int64)
        rows = _OpenRows(seq_len)
        sizes, first = np.unique(-length[order], return_index=True)
        for size, group in zip(-sizes, np.split(order, first)[1:], strict=True):
            row[group] = rows.place(int(size), len(group))
        by_row = order[np.argsort(row[order], kind="stable")]
        return _rows(row[by_row], document[by_row], start[by_row], length[by_row])


@dataclass(frozen=True)
class Concat:
    """One stream of all documents in store order, cut every seq_len tokens.

    Source: the packed variant of LeoYML/BioMamba@e61db22.
    """

    def plan(self, lengths: Ints, seq_len: int) -> PackedRows:
        """Plan the rows of documents with these lengths in tokens; deterministic."""
        ends = np.cumsum(lengths, dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        stops = np.union1d(ends, np.arange(seq_len, total, seq_len, dtype=np.int64))
        starts = np.concatenate([np.zeros(min(1, len(stops)), dtype=np.int64), stops[:-1]])
        document = np.searchsorted(ends, starts, side="right").astype(np.int64)
        begin = ends - lengths
        return _rows(starts // seq_len, document, starts - begin[document], stops - starts)


@dataclass(frozen=True)
class SingleDocument:
    """One document per row, the rest of the row padded.

    Attributes:
        drop_overflow: Throw away what exceeds the row of a document, its end-of-document token
            included; otherwise a longer document continues in further rows.

    Source: with drop_overflow the padded variant of LeoYML/BioMamba@e61db22.
    """

    drop_overflow: bool = False

    def plan(self, lengths: Ints, seq_len: int) -> PackedRows:
        """Plan the rows of documents with these lengths in tokens; deterministic."""
        document, start, length = _cut(lengths, seq_len)
        if self.drop_overflow:
            document, start, length = (part[start == 0] for part in (document, start, length))
        return _rows(np.arange(len(document), dtype=np.int64), document, start, length)


class _OpenRows:
    """Rows by the space left in them."""

    def __init__(self, seq_len: int) -> None:
        self._seq_len = seq_len
        self._by_space: list[deque[Ints]] = [deque() for _ in range(seq_len + 1)]
        self._spaces = 0  # bit s is set if some row has s positions left
        self._num_rows = 0

    def place(self, size: int, count: int) -> Ints:
        """Return the rows of `count` pieces of one size.

        A row that takes a piece stays the fullest one until no further piece fits, hence it takes
        as many as fit at once; that makes the plan O(sizes) instead of O(documents).
        """
        placed = [np.empty(0, dtype=np.int64)]
        while count:
            space, rows = self._take(size, count)
            per_row = space // size
            assigned = np.repeat(rows, per_row)[:count]
            placed.append(assigned)
            count -= len(assigned)
            in_last = len(assigned) - per_row * (len(rows) - 1)
            self._put(rows[:-1], space - per_row * size)
            self._put(rows[-1:], space - in_last * size)
        return np.concatenate(placed)

    def _take(self, size: int, count: int) -> tuple[int, Ints]:
        fitting = self._spaces >> size
        if not fitting:
            num_rows = -(-count // (self._seq_len // size))
            rows = np.arange(self._num_rows, self._num_rows + num_rows, dtype=np.int64)
            self._num_rows += num_rows
            return self._seq_len, rows
        space = size + (fitting & -fitting).bit_length() - 1
        rows = self._by_space[space].popleft()
        needed = -(-count // (space // size))
        if len(rows) > needed:
            self._by_space[space].appendleft(rows[needed:])
        elif not self._by_space[space]:
            self._spaces &= ~(1 << space)
        return space, rows[:needed]

    def _put(self, rows: Ints, space: int) -> None:
        if len(rows) and space:
            self._by_space[space].append(rows)
            self._spaces |= 1 << space


def _cut(lengths: Ints, seq_len: int) -> tuple[Ints, Ints, Ints]:
    """Cut documents into pieces of at most seq_len; return document, start and length of each."""
    lengths = lengths.astype(np.int64)
    num_pieces = -(-lengths // seq_len)
    document = np.repeat(np.arange(len(lengths), dtype=np.int64), num_pieces)
    first = np.cumsum(num_pieces) - num_pieces
    start = (np.arange(len(document), dtype=np.int64) - first[document]) * seq_len
    return document, start, np.minimum(lengths[document] - start, seq_len)


def _rows(row: Ints, document: Ints, start: Ints, length: Ints) -> PackedRows:
    """Build a plan from pieces that are sorted by row; rows are numbered without gaps."""
    num_rows = int(row[-1]) + 1 if len(row) else 0
    counts = np.bincount(row, minlength=num_rows)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])
    return PackedRows(offsets, document, start, length)
