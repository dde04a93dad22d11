"""The steps of a run: one item is one optimizer step of one rank.

Step t is the rows [t G, (t + 1) G) of the global stream, G rows to a step. Rank r of W takes the
r-th part of G / W rows, cut into micro-batches. The stream therefore depends neither on the ranks
nor on the workers nor on the micro-batch size, and a run resumes at any step at no cost.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from biomamba.data.batches import Batch, PlannedSource, RowRequest, build_batch
from biomamba.data.budget import TokenBudget
from biomamba.data.loader import WORKER_TIMEOUT_SECONDS, WorkerLoader
from biomamba.data.mixed_rows import MixedRows


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
