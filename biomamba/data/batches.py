"""The tensors that reach the model, built from the pieces of packed rows.

A stored document is S = [t1 .. tn, EOD]. Its targets are S, its inputs [EOD, t1 .. tn]: EOD also
starts a document, so a document takes exactly its n + 1 positions, every token is predicted once
per epoch and bits per byte count every byte. A piece S[a:b] of a cut document has the targets
S[a:b] and continues with the input S[a-1].

Deviation: the released code of arXiv 2408.02600 appends no EOD and starts a text without one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from biomamba.data.loader import WORKER_TIMEOUT_SECONDS, WorkerLoader
from biomamba.data.mixture import MixedRows, TokenBudget
from biomamba.data.packing import BestFit, PackedRows
from biomamba.data.store.reader import (
    OpenStore,
    Supervision,
    TokenSplit,
    content_fingerprint,
    open_stores,
    verify_stores,
)
from biomamba.runtime.errors import DataError

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
    """Put pieces one after the other in their rows and pad the rows.

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


# -------------------------------------------------------------------------------------------------
# The steps of a run: one item is one optimizer step of one rank.
#
# Step t is the rows [t G, (t + 1) G) of the global stream, G rows to a step. Rank r of W takes the
# r-th part of G / W rows, cut into micro-batches. The stream therefore depends neither on the ranks
# nor on the workers nor on the micro-batch size, and a run resumes at any step at no cost.
# -------------------------------------------------------------------------------------------------


class TrainingSteps(Dataset[list[Batch]]):
    """Map a step to the micro-batches of one rank.

    Args:
        sources: The sources in their order; those without a share may lack rows.
        rows: The stream.
        budget: Sizes of the run.
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(
        self,
        sources: Sequence[PlannedSource],
        rows: MixedRows,
        budget: TokenBudget,
        *,
        rank: int,
        world_size: int,
    ) -> None:
        self._sources = list(sources)
        self._rows = rows
        self._budget = budget
        self._accumulation = budget.accumulation(world_size)
        self._first = rank * self._accumulation * budget.micro_batch_size

    def __len__(self) -> int:
        return self._budget.num_steps

    def __getitem__(self, step: int) -> list[Batch]:
        """Return the micro-batches of this rank at a step, in order."""
        size = self._budget.micro_batch_size
        begin = step * self._budget.sequences_per_step + self._first
        samples = np.arange(begin, begin + self._accumulation * size, dtype=np.int64)
        source, row, _ = self._rows.locate_many(samples)
        requests = [
            RowRequest(self._sources[int(s)], int(r), int(i))
            for s, r, i in zip(source, row, samples, strict=True)
        ]
        return build_batch(requests, self._budget.seq_len).split(size)


class StepSampler(Sampler[int]):
    """The steps from `start` on; its length is that of the whole run.

    Lightning adds the steps that a checkpoint has consumed to those it fetches and compares the
    sum with the length of the loader.
    """

    def __init__(self, start: int, num_steps: int) -> None:
        self._start = start
        self._num_steps = num_steps

    def __len__(self) -> int:
        return self._num_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._start, self._num_steps))


class StepLoader(WorkerLoader[list[Batch]]):
    """The loader of a run.

    The position in the run is kept by the datamodule, with the fingerprint of the stream and equal
    on all ranks. The two methods tell Lightning that nothing is lost on resume.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the datamodule keeps the position."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the loader was built at the position."""


def training_loader(
    steps: TrainingSteps,
    start_step: int,
    num_workers: int,
    timeout_seconds: float | None = WORKER_TIMEOUT_SECONDS,
) -> StepLoader:
    """Load the steps of a rank from `start_step` on."""
    return StepLoader(
        steps,
        sampler=StepSampler(start_step, len(steps)),
        num_workers=num_workers,
        timeout_seconds=timeout_seconds,
    )


# -------------------------------------------------------------------------------------------------
# Score every document of a split exactly once, whatever the number of ranks.
#
# Rows are packed best-fit whatever the packing of the training: only documents longer than a row
# are cut, so the figures of two runs compare.
# -------------------------------------------------------------------------------------------------


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
