"""Log tokens per second, the wait for data, and peak memory."""

import resource
import sys
import time
from collections.abc import Sequence

import lightning
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT

from biomamba.data.batches import Batch
from biomamba.runtime.numbers import check_whole

# ru_maxrss is in KiB on Linux and in bytes on macOS.
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def peak_memory_gib() -> float:
    """Return the peak of allocated GPU memory, or of resident memory without a GPU, in GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES / 2**30


class Throughput(lightning.Callback):
    """Measures over windows of every_n_steps; time spent in validation does not count.

    The mean rate is that of all windows since the run was started or resumed.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        check_whole("every_n_steps", every_n_steps)
        self.every_n_steps = every_n_steps
        self._idle_since = self._started_at = time.perf_counter()
        self._all_tokens, self._all_seconds = 0, 0.0
        self._reset()

    def _reset(self) -> None:
        self._tokens = 0
        self._step_seconds = 0.0
        self._wait_seconds = 0.0
        self._num_steps = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the clock of the first wait for data."""
        self._reset()
        self._all_tokens, self._all_seconds = 0, 0.0
        self._idle_since = time.perf_counter()

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Sequence[Batch],
        batch_idx: int,
    ) -> None:
        """End the wait for data."""
        self._started_at = time.perf_counter()
        self._wait_seconds += self._started_at - self._idle_since

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Sequence[Batch],
        batch_idx: int,
    ) -> None:
        """Count the step and log when a window is full."""
        self._idle_since = time.perf_counter()
        self._step_seconds += self._idle_since - self._started_at
        # Also those that are read and not scored, as the prompts of tasks; padding never.
        self._tokens += sum(int(micro_batch.pieces["tokens"].sum()) for micro_batch in batch)
        self._num_steps += 1
        if self._num_steps < self.every_n_steps:
            return
        seconds = self._step_seconds + self._wait_seconds
        self._all_tokens += self._tokens
        self._all_seconds += seconds
        rate = self._tokens * trainer.world_size / seconds
        mean = self._all_tokens * trainer.world_size / self._all_seconds
        pl_module.log("throughput/tokens_per_second", rate, prog_bar=True)
        pl_module.log_dict(
            {
                "throughput/mean_tokens_per_second": mean,
                "throughput/data_wait_ratio": self._wait_seconds / seconds,
                "system/peak_memory_gib": peak_memory_gib(),
            }
        )
        self._reset()

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Leave the time of validation out of the wait for data."""
        self._idle_since = time.perf_counter()
