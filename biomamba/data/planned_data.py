"""Data whose documents are all known before the run: every row of it is planned."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader

from biomamba.data.batches import Batch, PlannedSource
from biomamba.data.budget import TokenBudget
from biomamba.data.evaluation_rows import DocumentRows
from biomamba.data.exposure import Exposure, check_repetition, exposures
from biomamba.data.loader import WORKER_TIMEOUT_SECONDS
from biomamba.data.mixed_rows import MixedRows
from biomamba.data.mixture import Mixture, SourceSize
from biomamba.data.packing import PackedRows, Packing
from biomamba.data.token_split import TokenSplit
from biomamba.data.training_data import TrainingData
from biomamba.data.training_rows import TrainingSteps, training_loader
from biomamba.runtime.numbers import check_number, check_seed, check_whole


@dataclass(frozen=True)
class _Ready:
    """What `setup` builds."""

    sources: list[PlannedSource]
    rows: MixedRows
    validation: list[DocumentRows]
    exposures: dict[str, Exposure]


class PlannedData(TrainingData):
    """Mix documents into steps; validate on every source.

    A subclass says where the documents come from and what identifies them.

    Args:
        budget: Size of the run.
        sources: Names of the sources in the order that numbers them.
        mixture: Their shares; its keys are the sources.
        packing: Layout of the training rows.
        seed: Selects the order of the rows.
        max_repetition: Refuse a run that passes over a source more often; None for no limit.
        num_workers: Processes that build batches; 0 builds them in the main one.
        worker_timeout_seconds: When the run gives up such a process that gives nothing.
    """

    def __init__(
        self,
        budget: TokenBudget,
        sources: Iterable[str],
        mixture: Mixture,
        packing: Packing,
        *,
        seed: int,
        max_repetition: float | None,
        num_workers: int,
        worker_timeout_seconds: float | None = WORKER_TIMEOUT_SECONDS,
    ) -> None:
        check_number("data.worker_timeout_seconds", worker_timeout_seconds, above=0, optional=True)
        super().__init__(budget, sources, mixture)
        check_seed("seed", seed)
        check_number("max_repetition", max_repetition, above=0, optional=True)
        check_whole("num_workers", num_workers, at_least=0)
        self._start_steps = mixture.start_steps(budget)
        self.packing = packing
        self._seed = seed
        self._max_repetition = max_repetition
        self._num_workers = num_workers
        self._worker_timeout_seconds = worker_timeout_seconds
        self._ready: _Ready | None = None

    @abstractmethod
    def training_split(self, name: str) -> TokenSplit:
        """Return the training documents of a source."""

    @abstractmethod
    def validation_rows(self, index: int, name: str) -> DocumentRows:
        """Return the validation documents of the source of this number and name."""

    @property
    def exposures(self) -> dict[str, Exposure]:
        """How each source is packed and repeated in this run."""
        return self._built.exposures

    def setup(self, stage: str = "fit") -> None:  # noqa: ARG002 - all stages need the same
        """Plan the rows of all sources; a second call does nothing."""
        if self._ready is not None:
            return
        sources = [self._plan(index, name) for index, name in enumerate(self.source_names)]
        sizes = {
            name: SourceSize(
                num_rows=source.plan.num_rows,
                num_tokens=int(source.plan.piece_length.sum()),
                num_documents=len(np.unique(source.plan.piece_document)),
            )
            for name, source in zip(self.source_names, sources, strict=True)
        }
        validation = [self.validation_rows(i, name) for i, name in enumerate(self.source_names)]
        starts = [step * self.budget.sequences_per_step for step in self._start_steps]
        rows = MixedRows(self.mixture, sizes, self._seed, starts)
        by_name = dict(zip(self.source_names, sources, strict=True))
        found = exposures(by_name, rows, self.budget)
        check_repetition(found, self._max_repetition)
        self._ready = _Ready(sources, rows, validation, found)

    def train_dataloader(self) -> DataLoader[list[Batch]]:
        """Load the steps of this rank behind those that a checkpoint has consumed."""
        rank, world_size = self._place()
        steps = self.steps(rank=rank, world_size=world_size)
        return training_loader(
            steps, self._start_step, self._num_workers, self._worker_timeout_seconds
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Load the validation documents of this rank, one loader per source in their order."""
        rank, world_size = self._place()
        return [
            rows.loader(
                rank=rank,
                world_size=world_size,
                num_workers=self._num_workers,
                timeout_seconds=self._worker_timeout_seconds,
            )
            for rows in self._built.validation
        ]

    def steps(self, *, rank: int, world_size: int) -> TrainingSteps:
        """Return the steps of any rank."""
        ready = self._built
        return TrainingSteps(
            ready.sources, ready.rows, self.budget, rank=rank, world_size=world_size
        )

    @property
    def _built(self) -> _Ready:
        if self._ready is None:
            self.setup()
        assert self._ready is not None
        return self._ready

    def _plan(self, index: int, name: str) -> PlannedSource:
        split = self.training_split(name)
        if self.mixture.trains_on(name):
            return PlannedSource(
                index, split, self.packing.plan(split.lengths, self.budget.seq_len)
            )
        none = np.empty(0, dtype=np.int64)
        return PlannedSource(
            index, split, PackedRows(np.zeros(1, dtype=np.int64), none, none, none)
        )
