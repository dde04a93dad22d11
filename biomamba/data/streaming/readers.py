"""Virtual readers of a stream: documents, packed rows and steps, resumed from a few integers."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from biomamba.data.batches import PIECE_DTYPE, Batch, PieceContents, lay_out
from biomamba.data.document import Document, document_key
from biomamba.data.loader import WORKER_TIMEOUT_SECONDS, WorkerLoader
from biomamba.data.mixture import FeistelPermutation, MixedRows, Mixture, SourceSize, TokenBudget
from biomamba.data.streaming.source import Admission, ReaderPart, StreamedSource
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import BioMambaError, ConfigError, DataError
from biomamba.runtime.numbers import check_number, check_whole

# -------------------------------------------------------------------------------------------------
# One reader's documents of one source: endless, shuffled in blocks, resumed from five integers.
# -------------------------------------------------------------------------------------------------

_DOCUMENTS_AT_ONCE = 16


@dataclass(frozen=True)
class Reading:
    """How the corpora are read.

    Attributes:
        num_readers: Virtual readers; the number of ranks divides it, and it divides the rows of a
            step. Each keeps a file of every source open, which takes about 20 MB (JSON lines) to
            65 MB (Parquet) where `datasets` reads it.
        block_documents: Documents of a source that a reader holds and shuffles at a time.
        max_bad_fraction: The run stops when more of the rows of a raw shard than this are damaged.
    """

    num_readers: int = 64
    block_documents: int = 256
    max_bad_fraction: float = 0.001

    def __post_init__(self) -> None:
        for name in ("num_readers", "block_documents"):
            check_whole(name, getattr(self, name))
        check_number("max_bad_fraction", self.max_bad_fraction, at_least=0, at_most=1)


@dataclass(frozen=True)
class ReaderSettings:
    """What all readers of a run share.

    Attributes:
        reading: How the corpora are read.
        admission: Which documents are trained on.
        tokenizer: Encodes the texts.
        seed: Selects the order.
        max_repetition: Passes over its part of a source that a reader may start; None for no limit.
    """

    reading: Reading
    admission: Admission
    tokenizer: Tokenizer
    seed: int
    max_repetition: int | None = None


@dataclass(frozen=True)
class Place:
    """Where a block starts.

    Attributes:
        epoch: Pass over the reader's part of the source.
        shard: Place of the raw shard in the order of the pass.
        row: Rows of that shard that are behind.
    """

    epoch: int = 0
    shard: int = 0
    row: int = 0


@dataclass(frozen=True)
class Piece:
    """A part of a document.

    Attributes:
        key: Document key.
        start: First token in the document.
        tokens: (tokens,).
        previous: The token before; EOD before the start of the document.
        num_bytes: UTF-8 bytes of the document, 0 if the piece continues one.
    """

    key: int
    start: int
    tokens: NDArray[Any]
    previous: int
    num_bytes: int


class SourceReader:
    """Cut the documents of one reader and one source into pieces, each token once per pass.

    Args:
        source: The source.
        reader: Number of the reader.
        settings: What all readers share.
        position: Where to continue, as `position` returned it; None for the beginning.
    """

    def __init__(
        self,
        source: StreamedSource,
        reader: int,
        settings: ReaderSettings,
        position: list[int] | None = None,
    ) -> None:
        epoch, shard, row, self._document, self._token = position or [0] * 5
        self._begin = Place(epoch, shard, row)
        self._end = self._begin
        self._source = source
        self._reader = reader
        self._settings = settings
        self._part: ReaderPart = source.part(reader, settings.reading.num_readers)
        self._candidates: Iterator[tuple[Place, Document]] | None = None
        self._block: list[Document] = []
        self._encoded: dict[int, NDArray[Any]] = {}

    @property
    def position(self) -> list[int]:
        """Epoch, shard and row where the block starts, documents and tokens of it behind."""
        return [*astuple(self._begin), self._document, self._token]

    def take(self, num_tokens: int) -> list[Piece]:
        """Return the next pieces; they hold exactly so many tokens.

        Raises:
            DataError: If the reader finds no document, or a source cannot be read.
            ConfigError: If another pass over the source would be one too many.
        """
        pieces: list[Piece] = []
        while num_tokens:
            piece = self._next_piece(num_tokens)
            num_tokens -= len(piece.tokens)
            pieces.append(piece)
        return pieces

    def _next_piece(self, max_tokens: int) -> Piece:
        if not self._block:
            self._load(self._begin)
        if self._document == len(self._block):
            self._document = 0
            self._load(self._end)
        document, tokens = self._block[self._document], self._tokens(self._document)
        start = self._token
        piece = Piece(
            key=document_key(document.id),
            start=start,
            tokens=tokens[start : start + max_tokens],
            previous=int(tokens[start - 1]) if start else self._settings.tokenizer.eod_id,
            num_bytes=0 if start else len(document.text.encode("utf-8")),
        )
        self._token += len(piece.tokens)
        if self._token == len(tokens):
            self._document, self._token = self._document + 1, 0
        return piece

    def _load(self, begin: Place) -> None:
        """Read and shuffle the block that starts at a place, or the first of the next epoch."""
        block = self._fill(begin)
        if not block and begin != Place(begin.epoch):
            begin = Place(begin.epoch + 1)
            self._check_repetition(begin.epoch)
            self._candidates = None
            block = self._fill(begin)
        if not block:
            raise DataError(
                f"reader {self._reader} finds no training document in its part of source "
                f"{self._source.name!r}; lower num_readers or add documents"
            )
        order = self._order("block", len(block), *astuple(begin))
        self._block = [block[number] for number in order]
        self._begin = begin
        self._encoded = {}

    def _fill(self, begin: Place) -> list[Document]:
        """Read the documents of the block that starts at a place; none at the end of an epoch."""
        if self._candidates is None:
            self._candidates, self._end = self._read(begin), begin
        size, block = self._settings.reading.block_documents, list[Document]()
        while len(block) < size:
            num_wanted = size - len(block)
            found = list(islice(self._candidates, num_wanted))
            block += self._settings.admission.without_benchmarks(
                [candidate for _, candidate in found]
            )
            if found:
                self._end = found[-1][0]
            if len(found) < num_wanted:
                break
        return block

    def _read(self, begin: Place) -> Iterator[tuple[Place, Document]]:
        """Iterate over the training documents of an epoch, with the places after them."""
        order = self._order("shards", len(self._part.shards), begin.epoch)
        max_bad_fraction = self._settings.reading.max_bad_fraction
        for number in range(begin.shard, len(order)):
            first_row = begin.row if number == begin.shard else 0
            for row, document in self._part.documents(order[number], first_row, max_bad_fraction):
                if self._settings.admission.is_of("train", document):
                    yield Place(begin.epoch, number, row + 1), document

    def _order(self, what: str, size: int, *place: int) -> list[int]:
        key = (what, self._settings.seed, self._source.name, self._reader, *place)
        return [int(number) for number in FeistelPermutation(size, *key)(np.arange(size))]

    def _tokens(self, number: int) -> NDArray[Any]:
        if number not in self._encoded:
            tokenizer = self._settings.tokenizer
            texts = [d.text for d in self._block[number : number + _DOCUMENTS_AT_ONCE]]
            self._encoded = {
                number + i: np.array([*ids, tokenizer.eod_id], dtype=np.int32)
                for i, ids in enumerate(tokenizer.encode_batch(texts))
            }
        return self._encoded[number]

    def _check_repetition(self, epoch: int) -> None:
        limit = self._settings.max_repetition
        if limit is not None and epoch >= limit:
            raise ConfigError(
                f"max_repetition is {limit}, but reader {self._reader} has passed over its part of "
                f"source {self._source.name!r} that often; lower max_tokens or the weight of the "
                "source, add documents, or raise max_repetition"
            )


# -------------------------------------------------------------------------------------------------
# The training rows of one virtual reader.
#
# Every row is of one source and full: documents follow each other in it, and one that does not fit
# continues in the reader's next row of that source with a fresh state. The sources of the rows are
# those of the mixture for rows of equal size, so the shares hold over all readers together, at any
# time to about a row.
# -------------------------------------------------------------------------------------------------

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
        positions: Where to continue in each source, as `positions` returned it; empty for the
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
        """Where the reader is in each source."""
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
    """Put the rows of several readers one after the other."""
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


# -------------------------------------------------------------------------------------------------
# The steps of a run read from a stream: one item is one optimizer step of one rank.
#
# Step t is G rows: those of the readers in order, G / V of each of V readers. Rank r of W owns the
# r-th part of the readers, and its worker processes share them. Ranks, workers and micro-batches
# therefore change nothing in the global rows, and the positions of all readers after a step are all
# that a resume needs.
# -------------------------------------------------------------------------------------------------

_STEPS_KEPT = 8
_Item = tuple[RowPart, dict[int, Positions]] | BioMambaError


def readers_of(rank: int, world_size: int, plan: StreamPlan) -> range:
    """Return the readers that a rank owns.

    Raises:
        ConfigError: If the ranks cannot share the readers.
    """
    num_readers = plan.settings.reading.num_readers
    if num_readers % world_size:
        raise ConfigError(
            f"num_readers = {num_readers} is no multiple of world_size = {world_size}; every rank "
            "owns equally many readers"
        )
    share = num_readers // world_size
    return range(rank * share, (rank + 1) * share)


class StepParts(IterableDataset[_Item]):
    """The rows of some readers, step after step, with the positions of the readers after them.

    In a worker process it gives the part of the readers that falls to the worker.

    Args:
        plan: The run.
        readers: The readers.
        positions: Where each reader continues; empty for the beginning.
        start_step: First step.
    """

    def __init__(
        self,
        plan: StreamPlan,
        readers: Sequence[int],
        positions: Mapping[int, Positions],
        start_step: int,
    ) -> None:
        self._plan = plan
        self._readers = readers
        self._positions = positions
        self._start_step = start_step

    def __iter__(self) -> Iterator[_Item]:
        """Iterate over the steps; an error becomes an item, so that it is shown as it is."""
        info = get_worker_info()
        number, count = (0, 1) if info is None else (info.id, info.num_workers)
        mine = [int(reader) for reader in np.array_split(self._readers, count)[number]]
        readers = {
            reader: RowReader(self._plan, reader, self._positions.get(reader, {}))
            for reader in mine
        }
        for step in range(self._start_step, self._plan.budget.num_steps):
            try:
                part = join([reader.rows(step) for reader in readers.values()])
            except BioMambaError as error:
                yield error
                return
            yield part, {number: reader.positions for number, reader in readers.items()}


class StreamLoader:
    """The loader of a run: lists of micro-batches, and the positions after each step given out.

    Workers read ahead; what they have read counts only when its step has been given out. Its
    length is that of the whole run, because Lightning adds the steps that a checkpoint has consumed
    to those it fetches and compares the sum with the length.

    Args:
        plan: The run.
        readers: The readers of this rank.
        positions: Where each reader continues; empty for the beginning.
        start_step: First step.
        num_workers: Processes that share the readers; 0 reads in this one.
        timeout_seconds: When the loader gives up a worker that gives nothing; None for never.
    """

    def __init__(
        self,
        plan: StreamPlan,
        readers: Sequence[int],
        positions: Mapping[int, Positions],
        start_step: int,
        num_workers: int,
        timeout_seconds: float | None = WORKER_TIMEOUT_SECONDS,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._plan = plan
        self._start_step = start_step
        self._num_workers = min(num_workers, len(readers))
        self._parts = StepParts(plan, readers, positions, start_step)
        self._behind: OrderedDict[int, dict[int, Positions]] = OrderedDict()

    def __len__(self) -> int:
        return self._plan.budget.num_steps

    def __iter__(self) -> Iterator[list[Batch]]:
        """Iterate over the steps of this rank."""
        if self._num_workers:
            # Each worker is one process of several; and a fork would turn the threads of the
            # tokenizer off with a warning.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        loader = WorkerLoader(
            self._parts,
            num_workers=self._num_workers,
            timeout_seconds=self._timeout_seconds,
            pin_memory=False,
        )
        items = iter(loader)
        try:
            for step in range(self._start_step, len(self)):
                # The loader asks its workers in turn: these are the parts of one step in order.
                rows, positions = _unpack([next(items) for _ in range(max(1, self._num_workers))])
                self._behind[step + 1] = positions
                if len(self._behind) > _STEPS_KEPT:
                    self._behind.popitem(last=False)
                yield self._micro_batches(rows)
        finally:
            # The traceback of an error would hold the workers for as long as it is looked at.
            del items

    def positions_after(self, num_steps: int) -> dict[int, Positions]:
        """Return the positions of the readers of this rank after so many steps of the run."""
        return self._behind[num_steps]

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the datamodule keeps the positions."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the loader was built at the positions."""

    def _micro_batches(self, rows: RowPart) -> list[Batch]:
        batch = lay_out(
            rows.contents,
            source=rows.source,
            row_ids=rows.row_ids,
            seq_len=self._plan.budget.seq_len,
            eod_id=self._plan.settings.tokenizer.eod_id,
        )
        micro_batches = batch.split(self._plan.budget.micro_batch_size)
        is_pinned = torch.cuda.is_available()
        return [part.pin_memory() for part in micro_batches] if is_pinned else micro_batches


def _unpack(items: Sequence[_Item]) -> tuple[RowPart, dict[int, Positions]]:
    parts: list[RowPart] = []
    positions: dict[int, Positions] = {}
    for item in items:
        if isinstance(item, BioMambaError):
            raise item
        parts.append(item[0])
        positions |= item[1]
    return join(parts), positions
