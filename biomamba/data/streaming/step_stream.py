"""The steps of a run read from a stream: one item is one optimizer step of one rank.

Step t is G rows: those of the readers in order, G / V of each of V readers. Rank r of W owns the
r-th part of the readers, and its worker processes share them. Ranks, workers and micro-batches
therefore change nothing in the global rows, and the positions of all readers after a step are all
that a resume needs.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from biomamba.data.batches import Batch, lay_out
from biomamba.data.loader import WORKER_TIMEOUT_SECONDS, WorkerLoader
from biomamba.data.streaming.row_reader import Positions, RowPart, RowReader, StreamPlan, join
from biomamba.runtime.errors import BioMambaError, ConfigError

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
    """The rows of some readers, step after step, with the positions of the readers behind them.

    In a worker process it gives the part of the readers that falls to the worker.

    Args:
        plan: The run.
        readers: The readers.
        positions: Where each reader goes on; empty for the beginning.
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
    """The loader of a run: lists of micro-batches, and the positions behind each step given out.

    Workers read ahead; what they have read counts only when its step has been given out. Its
    length is that of the whole run, because Lightning adds the steps that a checkpoint has consumed
    to those it fetches and compares the sum with the length.

    Args:
        plan: The run.
        readers: The readers of this rank.
        positions: Where each reader goes on; empty for the beginning.
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
        """Return the positions of the readers of this rank behind so many steps of the run."""
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
