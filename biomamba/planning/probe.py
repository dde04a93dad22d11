"""The rate of the real training step on this machine, on random documents."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from biomamba.data.batches import Batch
from biomamba.data.mixture import TokenBudget
from biomamba.runtime.numbers import check_whole

# About the length of an abstract of PubMed with its title.
_MEAN_DOCUMENT_TOKENS = 300


@dataclass(frozen=True)
class Probe:
    """How much of a run is tried out.

    Attributes:
        steps: Steps that are measured.
        warmup_steps: Steps before them: kernels are compiled, memory is asked for.
        micro_batches: Of each rank in a step; null: as many as the run has. Fewer of them count
            optimizer and communication too often: a rate that is too low.
    """

    steps: int = 20
    warmup_steps: int = 3
    micro_batches: int | None = None

    def __post_init__(self) -> None:
        check_whole("steps", self.steps)
        check_whole("warmup_steps", self.warmup_steps, at_least=0)
        check_whole("micro_batches", self.micro_batches, optional=True)

    @property
    def all_steps(self) -> int:
        """Steps with those before the measured ones."""
        return self.warmup_steps + self.steps

    def loader(self, budget: TokenBudget, vocab_size: int, world_size: int) -> DataLoader[Any]:
        """Return the steps of one rank."""
        micro_batches = self.micro_batches or budget.accumulation(world_size)
        steps = RandomSteps(self.all_steps, micro_batches, budget, vocab_size)
        return DataLoader(steps, batch_size=None)

    def step_tokens(self, budget: TokenBudget, world_size: int) -> int:
        """Positions of one probed step over all ranks."""
        micro_batches = self.micro_batches or budget.accumulation(world_size)
        return micro_batches * world_size * budget.micro_batch_size * budget.seq_len


class RandomSteps(Dataset[list[Batch]]):
    """Steps of packed rows full of random documents."""

    def __init__(
        self, steps: int, micro_batches: int, budget: TokenBudget, vocab_size: int
    ) -> None:
        self._steps = steps
        self._micro_batches = micro_batches
        self._shape = (budget.micro_batch_size, budget.seq_len)
        self._vocab_size = vocab_size

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> list[Batch]:
        if not 0 <= step < self._steps:
            raise IndexError(step)
        draw = np.random.default_rng(step)
        return [self._batch(draw) for _ in range(self._micro_batches)]

    def _batch(self, draw: np.random.Generator) -> Batch:
        rows = self._shape[0]
        begins = draw.random(self._shape) < 1 / _MEAN_DOCUMENT_TOKENS
        return Batch(
            input_ids=torch.from_numpy(draw.integers(self._vocab_size, size=self._shape)),
            targets=torch.from_numpy(draw.integers(self._vocab_size, size=self._shape)),
            seq_idx=torch.from_numpy(begins.cumsum(1).astype(np.int32)),
            source=torch.zeros(rows, dtype=torch.int64),
            num_bytes=torch.zeros(rows, dtype=torch.int64),
            row_ids=torch.full((rows,), -1),
        )


class StepTimer(lightning.Callback):
    """Keeps the seconds of every step; a GPU is waited for.

    Attributes:
        seconds: Of each step.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begin = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Note the time."""
        self._begin = _now()

    def on_train_batch_end(self, *_: Any) -> None:
        """Add the step."""
        self.seconds.append(_now() - self._begin)

    def measured(self, probe: Probe) -> Sequence[float]:
        """Return the seconds after the warm-up."""
        return self.seconds[probe.warmup_steps :]


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
