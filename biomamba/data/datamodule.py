"""The LightningDataModules of runs whose documents are known: stores in, an exact stream out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from biomamba.data.batches import (
    Batch,
    DocumentRows,
    EvaluationRows,
    PlannedSource,
    TrainingSteps,
    training_loader,
)
from biomamba.data.loader import WORKER_TIMEOUT_SECONDS
from biomamba.data.mixture import MixedRows, Mixture, SourceSize, TokenBudget
from biomamba.data.packing import PackedRows, Packing
from biomamba.data.store.format import StoreFacts
from biomamba.data.store.reader import (
    VERIFY_MODES,
    OpenStore,
    TokenSplit,
    check_compatible,
    content_fingerprint,
    open_stores,
    verify_stores,
)
from biomamba.data.tokenizer import load_tokenizer
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number, check_seed, check_whole

# -------------------------------------------------------------------------------------------------
# What a run will make of each source: how it is packed, and how often it is repeated.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exposure:
    """One source in one run.

    Attributes:
        num_documents: Documents of the training split.
        num_tokens: Their tokens, end-of-document tokens included: one epoch.
        num_dropped_tokens: Tokens that the packing leaves out; no part of an epoch.
        num_cut_documents: Documents that are not whole in one row.
        padding_ratio: Share of the positions of its rows that hold no token.
        num_rows_drawn: Rows that the run takes from it.
        epochs: How often the run passes over it.
        num_target_tokens: Tokens of one epoch that are predicted: all but what is only read, as
            prompts.
    """

    num_documents: int
    num_tokens: int
    num_dropped_tokens: int
    num_cut_documents: int
    padding_ratio: float
    num_rows_drawn: int
    epochs: float
    num_target_tokens: int


def exposures(
    sources: Mapping[str, PlannedSource], rows: MixedRows, budget: TokenBudget
) -> dict[str, Exposure]:
    """Return the exposure of every source; one without a share has neither rows nor epochs."""
    drawn = rows.rows_drawn(budget.num_steps * budget.sequences_per_step)
    return {
        name: _exposure(source, drawn[name], budget.seq_len) for name, source in sources.items()
    }


def check_repetition(found: Mapping[str, Exposure], max_repetition: float | None) -> None:
    """Raise ConfigError naming every source that the run would pass over too often."""
    if max_repetition is None:
        return
    repeated = {
        name: round(exposure.epochs, 2)
        for name, exposure in found.items()
        if exposure.epochs > max_repetition
    }
    if repeated:
        raise ConfigError(
            f"max_repetition is {max_repetition}, but the run passes over its sources this often: "
            f"{repeated}; lower max_tokens or their weights, add stores, or raise max_repetition"
        )


def _exposure(source: PlannedSource, num_rows_drawn: int, seq_len: int) -> Exposure:
    plan, lengths = source.plan, source.split.lengths
    num_planned = int(plan.piece_length.sum())
    is_planned = plan.num_rows > 0  # a source without a share is not
    pieces = np.bincount(plan.piece_document, minlength=len(lengths))
    is_dropped = (lengths > seq_len) & (pieces == 1)
    num_tokens = num_planned if is_planned else int(lengths.sum())
    return Exposure(
        num_documents=len(source.split),
        num_tokens=num_tokens,
        num_dropped_tokens=int(lengths.sum()) - num_tokens,
        num_cut_documents=int(((pieces > 1) | is_dropped).sum()),
        padding_ratio=1 - num_planned / (plan.num_rows * seq_len) if is_planned else 0.0,
        num_rows_drawn=num_rows_drawn,
        epochs=num_rows_drawn / plan.num_rows if is_planned else 0.0,
        num_target_tokens=num_tokens - _num_read(source),
    )


def _num_read(source: PlannedSource) -> int:
    """Count the tokens of one epoch that are no targets."""
    learned, plan = source.split.supervision, source.plan
    if learned is None:
        return 0
    if not plan.num_rows:
        return int(learned.num_context.sum())
    pieces = learned.of_pieces(plan.piece_document, plan.piece_start, plan.piece_length)
    return int(pieces.num_context.sum())


# -------------------------------------------------------------------------------------------------
# What a run needs of its data, wherever the tokens come from.
# -------------------------------------------------------------------------------------------------


class TrainingData(LightningDataModule, ABC):
    """A stream of exactly `budget.num_steps` steps, and validation documents of every source.

    A subclass defines the loaders and what identifies the stream; the position in it is kept
    here, equal on all ranks.

    Attributes:
        allow_change: Continue after the steps of another stream; its rows are not distinguished
            from those of this one.

    Args:
        budget: Size of the run.
        sources: Names of the sources in the order that numbers them (Batch.source).
        mixture: Their shares; its keys are the sources.
    """

    def __init__(self, budget: TokenBudget, sources: Iterable[str], mixture: Mixture) -> None:
        super().__init__()
        self.allow_change = False
        self.budget = budget
        self.source_names = list(sources)
        self.mixture = mixture
        if set(self.source_names) != set(mixture.weights):
            raise ConfigError(
                f"the keys of weights {sorted(mixture.weights)} must be those of sources "
                f"{sorted(self.source_names)}; give weight 0 to a source that is only validated"
            )
        self._start_step = 0

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identify the stream: equal fingerprints give equal steps."""

    @property
    @abstractmethod
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids that a batch may hold."""

    @property
    def source_weights(self) -> dict[str, float]:
        """Share of each source averaged over the run, in their order; it weighs val/loss."""
        weights = self.mixture.mean_weights(self.budget)
        return {name: weights[name] for name in self.source_names}

    @property
    @abstractmethod
    def store_folders(self) -> dict[str, list[str]]:
        """The token stores of each source; empty if the tokens come from elsewhere."""

    @property
    @abstractmethod
    def exposures(self) -> Mapping[str, Exposure]:
        """What the run will make of each source; without those whose size is not known."""

    @property
    def description(self) -> dict[str, Any]:
        """What else the record of the run says about the data."""
        return {}

    @abstractmethod
    def save_tokenizer(self, path: Path) -> None:
        """Write the tokenizer beside a model."""

    @property
    def consumed_steps(self) -> int:
        """Steps of the run that the training has seen."""
        if self.trainer is None:
            return self._start_step
        # `processed` counts a step as soon as its weights are updated, also before the callbacks
        # that save a checkpoint; on resume Lightning restores it before the first step.
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return max(int(progress.processed), self._start_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream; equal on all ranks."""
        return {"consumed_steps": self.consumed_steps, "fingerprint": self.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the steps of a checkpoint.

        Raises:
            DataError: If the checkpoint saw another stream or is beyond the budget.
        """
        if state_dict["fingerprint"] != self.fingerprint and not self.allow_change:
            raise DataError(
                "the checkpoint was trained on another stream of rows: stores, mixture, packing, "
                "seed, seq_len and tokens_per_step must be those of the run it continues "
                f"(fingerprint {state_dict['fingerprint'][:12]}, now {self.fingerprint[:12]})"
            )
        consumed = state_dict["consumed_steps"]
        if consumed > self.budget.num_steps:
            raise DataError(
                f"the checkpoint has seen {consumed} steps, the budget has "
                f"{self.budget.num_steps}; raise max_tokens"
            )
        self._start_step = consumed

    def _place(self) -> tuple[int, int]:
        """Return rank and world size.

        Raises:
            ConfigError: If Lightning would put a sampler of its own over the loaders.
        """
        if self.trainer is None:
            return 0, 1
        connector = self.trainer._accelerator_connector
        if self.trainer.world_size > 1 and connector.use_distributed_sampler:
            raise ConfigError(
                "trainer.use_distributed_sampler must be false: the data is already dealt out to "
                "the ranks"
            )
        return self.trainer.global_rank, self.trainer.world_size


# -------------------------------------------------------------------------------------------------
# Data whose documents are all known before the run: every row of it is planned.
# -------------------------------------------------------------------------------------------------


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
        """Load the steps of this rank after those that a checkpoint has consumed."""
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


# -------------------------------------------------------------------------------------------------
# The data of a pretraining run: token stores in, an exact stream of steps out.
# -------------------------------------------------------------------------------------------------


class PretrainDataModule(PlannedData):
    """Mix token stores into steps; validate on every source.

    Args:
        sources: Name of each source and the stores pooled in it; the order numbers the sources.
        mixture: Shares of the sources; its keys are those of `sources`.
        packing: Layout of the training rows.
        budget: Size of the run.
        seed: Selects the order of the rows.
        max_val_documents: Documents per source to validate on, those with the smallest keys; None
            for all.
        max_train_tokens: Tokens of some sources to train on: whole documents, those with the
            smallest keys, so that a smaller number gives a subset of what a larger one gives; None
            for all of every source.
        max_repetition: Refuse a run that passes over a source more often; None for no limit.
        num_workers: Processes that build batches; 0 builds them in the main one.
        worker_timeout_seconds: When the run gives up a worker process that gives nothing, with an
            error that names it; None waits for ever.
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
        max_train_tokens: dict[str, int] | None = None,
        max_repetition: float | None = None,
        num_workers: int = 0,
        worker_timeout_seconds: float | None = WORKER_TIMEOUT_SECONDS,
        verify: str = "full",
    ) -> None:
        super().__init__(
            budget,
            sources,
            mixture,
            packing,
            seed=seed,
            max_repetition=max_repetition,
            num_workers=num_workers,
            worker_timeout_seconds=worker_timeout_seconds,
        )
        if verify not in VERIFY_MODES:
            raise ConfigError(f"verify is {verify!r}; allowed: {', '.join(VERIFY_MODES)}")
        check_whole("max_val_documents", max_val_documents, optional=True)
        self._folders = sources
        self._max_val_documents = max_val_documents
        self._max_train_tokens = _checked_limits(max_train_tokens or {}, sources)
        self._verify = verify
        self._is_verified = False

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
        limits = self._max_train_tokens
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
                **({"max_train_tokens": limits} if limits else {}),
            }
        )

    @property
    def store_folders(self) -> dict[str, list[str]]:
        """The token stores of each source."""
        return self._folders

    @property
    def description(self) -> dict[str, Any]:
        """Return the corpora with their terms of use: the stores may be gone one day."""
        found = {
            name: [StoreFacts.of(store.manifest, store.folder).as_record() for store in pool]
            for name, pool in self.stores.items()
        }
        return {"stores": found}

    def prepare_data(self) -> None:
        """Verify the stores once; Lightning calls this on one process of each node."""
        if not self._is_verified:
            verify_stores([store for pool in self.stores.values() for store in pool], self._verify)
            self._is_verified = True

    def training_split(self, name: str) -> TokenSplit:
        """Return the training documents of a source.

        Raises:
            ConfigError: `max_train_tokens` asks for more than there is, or for no document.
        """
        split = TokenSplit.open(self.stores[name], "train")
        limit = self._max_train_tokens.get(name)
        if limit is None:
            return split
        available, chosen = int(split.lengths.sum()), split.first_tokens_by_key(limit)
        if limit > available or not len(chosen):
            raise ConfigError(
                f"data.max_train_tokens.{name} is {limit:,}, but the source has {available:,} "
                f"training tokens in {len(split):,} documents; use a number in between that holds "
                "at least one document, or null for all"
            )
        return chosen

    def validation_rows(self, index: int, name: str) -> EvaluationRows:
        """Return the validation documents of the source of this number and name."""
        return EvaluationRows(
            self.stores[name],
            "val",
            seq_len=self.budget.seq_len,
            batch_size=self.budget.micro_batch_size,
            max_documents=self._max_val_documents,
            source_index=index,
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


def _checked_limits(limits: dict[str, int], sources: dict[str, list[str]]) -> dict[str, int]:
    unknown = sorted(set(limits) - set(sources))
    if unknown:
        raise ConfigError(
            f"data.max_train_tokens names {', '.join(unknown)}; the sources are "
            f"{', '.join(sources)}"
        )
    for name, limit in limits.items():
        check_whole(f"data.max_train_tokens.{name}", limit)
    return dict(sorted(limits.items()))
