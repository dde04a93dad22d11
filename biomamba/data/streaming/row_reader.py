"""The training rows of one virtual reader.

Every row is of one source and full: documents follow each other in it, and one that does not fit
goes on in the reader's next row of that source with a fresh state. The sources of the rows are
those of the mixture for rows of equal size, so the shares hold over all readers together, at any
time to about a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from biomamba.data.batches import PIECE_DTYPE, PieceContents
from biomamba.data.budget import TokenBudget
from biomamba.data.mixed_rows import MixedRows
from biomamba.data.mixture import Mixture, SourceSize
from biomamba.data.streaming.source import StreamedSource
from biomamba.data.streaming.source_reader import Piece, ReaderSettings, SourceReader
from biomamba.runtime.errors import ConfigError

Positions = dict[str, list[int]]
# Rows of an epoch of which nobody knows the end.
_ENDLESS = 1 << 40


@dataclass(frozen=True)
class StreamPlan:
    """What every reader of a run knows.

    Attributes:
        sources: The sources in their order.
        order: The source of every row of the run.
        settings: What all readers share.
        budget: Sizes of the run.
    """

    sources: tuple[StreamedSource, ...]
    order: MixedRows
    settings: ReaderSettings
    budget: TokenBudget

    @property
    def rows_per_reader(self) -> int:
        """Rows that each reader gives to a step."""
        return self.budget.sequences_per_step // self.settings.reading.num_readers


def endless_order(
    mixture: Mixture, names: Sequence[str], budget: TokenBudget, seed: int
) -> MixedRows:
    """Order the sources of full rows, whose number is not known.

    Raises:
        ConfigError: If the unit of the mixture is one that a stream cannot count ahead.
    """
    if mixture.unit == "documents":
        raise ConfigError("unit is 'documents'; a stream can mix by tokens or sequences only")
    size = SourceSize(_ENDLESS, _ENDLESS * budget.seq_len, _ENDLESS)
    starts = [step * budget.sequences_per_step for step in mixture.start_steps(budget)]
    return MixedRows(mixture, dict.fromkeys(names, size), seed, starts)


@dataclass(frozen=True)
class RowPart:
    """Some consecutive rows of a step.

    Attributes:
        source: (rows,) source of each row.
        row_ids: (rows,) number of each row in the stream.
        contents: The pieces of the rows.
    """

    source: np.ndarray[tuple[int], np.dtype[np.int64]]
    row_ids: np.ndarray[tuple[int], np.dtype[np.int64]]
    contents: PieceContents


class RowReader:
    """Make the rows of one reader, step after step.

    Args:
        plan: The run.
        reader: Number of the reader.
        positions: Where to go on in each source, as `positions` returned it; empty for the
            beginning.
    """

    def __init__(self, plan: StreamPlan, reader: int, positions: Mapping[str, list[int]]) -> None:
        self._plan = plan
        self._first = reader * plan.rows_per_reader
        self._sources = [
            SourceReader(source, reader, plan.settings, positions.get(source.name))
            for source in plan.sources
        ]

    @property
    def positions(self) -> Positions:
        """Where the reader stands in each source."""
        return {
            source.name: reader.position
            for source, reader in zip(self._plan.sources, self._sources, strict=True)
        }

    def rows(self, step: int) -> RowPart:
        """Make the rows that the reader gives to a step; steps are asked for in order."""
        budget = self._plan.budget
        begin = step * budget.sequences_per_step + self._first
        row_ids = np.arange(begin, begin + self._plan.rows_per_reader, dtype=np.int64)
        source, _, _ = self._plan.order.locate_many(row_ids)
        rows = [self._sources[index].take(budget.seq_len) for index in source.tolist()]
        return RowPart(source, row_ids, _contents(rows, source.tolist()))


def join(parts: Sequence[RowPart]) -> RowPart:
    """Put the rows of several readers one behind the other."""
    num_rows = [len(part.source) for part in parts]
    num_pieces = [len(part.contents.pieces) for part in parts]
    pieces = np.concatenate([part.contents.pieces for part in parts])
    pieces["row"] += np.repeat(np.cumsum(num_rows) - num_rows, num_pieces).astype(np.uint32)
    return RowPart(
        np.concatenate([part.source for part in parts]),
        np.concatenate([part.row_ids for part in parts]),
        PieceContents(
            pieces,
            [tokens for part in parts for tokens in part.contents.tokens],
            np.concatenate([part.contents.previous for part in parts]),
            np.concatenate([part.contents.num_bytes for part in parts]),
            np.concatenate([part.contents.document for part in parts]),
        ),
    )


def _contents(rows: Sequence[Sequence[Piece]], sources: Sequence[int]) -> PieceContents:
    """Describe the pieces of rows as a batch wants them; documents of a stream have no index."""
    placed = [(number, piece) for number, row in enumerate(rows) for piece in row]
    pieces = np.empty(len(placed), dtype=PIECE_DTYPE)
    pieces["row"] = [number for number, _ in placed]
    pieces["source"] = [sources[number] for number, _ in placed]
    pieces["key"] = np.array([piece.key for _, piece in placed], dtype=np.uint64)
    pieces["start"] = [piece.start for _, piece in placed]
    pieces["tokens"] = [len(piece.tokens) for _, piece in placed]
    return PieceContents(
        pieces,
        [piece.tokens for _, piece in placed],
        np.array([piece.previous for _, piece in placed], dtype=np.int64),
        np.array([piece.num_bytes for _, piece in placed], dtype=np.int64),
        np.full(len(placed), -1, dtype=np.int64),
    )
