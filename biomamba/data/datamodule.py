"""The data of a pretraining run: token stores in, an exact stream of steps out."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from biomamba.data.batches import Batch, PlannedSource
from biomamba.data.budget import TokenBudget
from biomamba.data.evaluation_rows import EvaluationRows
from biomamba.data.exposure import Exposure, check_repetition, exposures
from biomamba.data.mixed_rows import MixedRows
from biomamba.data.mixture import Mixture, SourceSize
from biomamba.data.packing import PackedRows, Packing
from biomamba.data.store_reader import (
    VERIFY_MODES,
    OpenStore,
    check_compatible,
    content_fingerprint,
    open_stores,
    verify_stores,
)
from biomamba.data.token_split import TokenSplit
from biomamba.data.tokenizer_folder import load_tokenizer
from biomamba.data.training_data import TrainingData
from biomamba.data.training_rows import TrainingSteps, training_loader
from biomamba.runtime.errors import ConfigError, DataError


@dataclass(frozen=True)
class _Ready:
    """What `setup` builds."""

    sources: list[PlannedSource]
    rows: MixedRows
    validation: list[EvaluationRows]
    exposures: dict[str, Exposure]


class PretrainDataModule(TrainingData):
    """Mix token stores into steps; validate on every source.

    Args:
        sources: Name of each source and the stores pooled in it; the order numbers the sources.
        mixture: Shares of the sources; its keys are those of `sources`.
        packing: Layout of the training rows.
        budget: Size of the run.
        seed: Selects the order of the rows.
        max_val_documents: Documents per source to validate on, those with the smallest keys; None
            for all.
        max_repetition: Refuse a run that passes over a source more often; None for no limit.
        num_workers: Processes that build batches; 0 builds them in the main one.
        verify: `full` compares the hash of every file before the run, `size` only its size.
    """

    def __init__(  # noqa: PLR0913 - one keyword per line of a data config
        self,
        *,
        sources: dict[str, list[str]],
        mixture: Mixture,
        packing: Packing,
        budget: TokenBudget,
        seed: int,
        max_val_documents: int | None = None,
        max_repetition: float | None = None,
        num_workers: int = 0,
        verify: str = "full",
    ) -> None:
        super().__init__(budget, sources, mixture)
        if verify not in VERIFY_MODES:
            raise ConfigError(f"verify is {verify!r}; allowed: {', '.join(VERIFY_MODES)}")
        if max_val_documents is not None and max_val_documents < 1:
            raise ConfigError(f"max_val_documents is {max_val_documents}; use 1 or more, or null")
        self._start_steps = mixture.start_steps(budget)
        self.packing = packing
        self._folders = sources
        self._seed = seed
        self._max_val_documents = max_val_documents
        self._max_repetition = max_repetition
        self._num_workers = num_workers
        self._verify = verify
        self._is_verified = False
        self._ready: _Ready | None = None

    @cached_property
    def stores(self) -> dict[str, list[OpenStore]]:
        """The stores of each source; opening them checks that all belong together."""
        stores = {name: open_stores(folders) for name, folders in self._folders.items()}
        check_compatible([store for pool in stores.values() for store in pool])
        return stores

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer of all stores."""
        return self._any_store.manifest.tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of ids that the stores may hold."""
        return self._any_store.manifest.vocab_size

    @cached_property
    def fingerprint(self) -> str:
        """Identify the stream of rows: equal fingerprints give equal steps."""
        packing_options = {name: value for name, value in vars(self.packing).items() if value}
        return content_fingerprint(
            {
                "stores": {
                    name: [store.fingerprint for store in pool]
                    for name, pool in self.stores.items()
                },
                "order": self.source_names,
                "mixture": self.mixture.description(),
                "packing": [type(self.packing).__name__, packing_options],
                "seed": self._seed,
                "seq_len": self.budget.seq_len,
                "tokens_per_step": self.budget.tokens_per_step,
            }
        )

    @property
    def store_folders(self) -> dict[str, list[str]]:
        """The token stores of each source."""
        return self._folders

    @property
    def exposures(self) -> dict[str, Exposure]:
        """How each source is packed and repeated in this run."""
        return self._built.exposures

    def prepare_data(self) -> None:
        """Verify the stores once; Lightning calls this on one process of each node."""
        if not self._is_verified:
            verify_stores([store for pool in self.stores.values() for store in pool], self._verify)
            self._is_verified = True

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
        validation = [
            EvaluationRows(
                self.stores[name],
                "val",
                seq_len=self.budget.seq_len,
                batch_size=self.budget.micro_batch_size,
                max_documents=self._max_val_documents,
                source_index=index,
            )
            for index, name in enumerate(self.source_names)
        ]
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
        return training_loader(steps, self._start_step, self._num_workers)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Load the validation documents of this rank, one loader per source in their order."""
        rank, world_size = self._place()
        return [
            rows.loader(rank=rank, world_size=world_size, num_workers=self._num_workers)
            for rows in self._built.validation
        ]

    def steps(self, *, rank: int, world_size: int) -> TrainingSteps:
        """Return the steps of any rank."""
        ready = self._built
        return TrainingSteps(
            ready.sources, ready.rows, self.budget, rank=rank, world_size=world_size
        )

    def save_tokenizer(self, path: Path) -> None:
        """Write the tokenizer of the stores beside a model.

        Raises:
            DataError: If the tokenizer beside the stores is missing or another one.
        """
        folder = self._any_store.folder.parent
        tokenizer = load_tokenizer(folder)
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise DataError(
                f"the tokenizer in {folder} is not the one that its stores were made with"
            )
        tokenizer.save(path)

    @property
    def _any_store(self) -> OpenStore:
        return self.stores[self.source_names[0]][0]

    @property
    def _built(self) -> _Ready:
        if self._ready is None:
            self.setup()
        assert self._ready is not None
        return self._ready

    def _plan(self, index: int, name: str) -> PlannedSource:
        split = TokenSplit.open(self.stores[name], "train")
        if self.mixture.trains_on(name):
            return PlannedSource(
                index, split, self.packing.plan(split.lengths, self.budget.seq_len)
            )
        none = np.empty(0, dtype=np.int64)
        return PlannedSource(
            index, split, PackedRows(np.zeros(1, dtype=np.int64), none, none, none)
        )
