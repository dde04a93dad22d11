"""What a run needs of its data, wherever the tokens come from."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning import LightningDataModule

from biomamba.data.budget import TokenBudget
from biomamba.data.exposure import Exposure
from biomamba.data.mixture import Mixture
from biomamba.runtime.errors import ConfigError, DataError


class TrainingData(LightningDataModule, ABC):
    """A stream of exactly `budget.num_steps` steps, and validation documents of every source.

    A subclass defines the loaders and what identifies the stream; the position in it is kept
    here, equal on all ranks.

    Attributes:
        allow_change: Go on behind the steps of another stream; its rows are not told apart from
            those of this one.

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
        """Continue behind the steps of a checkpoint.

        Raises:
            DataError: If the checkpoint saw another stream or lies beyond the budget.
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
