"""Stop in time: save at a step boundary, put the job back into the queue, end the process.

A signal (see runtime/signals.py) or the time limit of the SLURM job asks for it. All ranks agree
at the end of each step, so that they stop at the same one: an all-reduce of one number, 0.3 ms
between two processes over gloo on one busy machine.
"""

import signal
import time
from collections.abc import Sequence

import lightning
import torch
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.utilities.types import STEP_OUTPUT

from biomamba.data.batches import Batch
from biomamba.runtime import signals, slurm
from biomamba.runtime.numbers import check_number
from biomamba.training.callbacks.checkpoint import Checkpoints, find_callbacks

# Larger than every signal number: the ranks agree on the maximum.
_TIME_LIMIT = 1_000


class Preemption(lightning.Callback):
    """Ends the fit with `Interrupted` at the first step boundary after a request to stop.

    The time limit counts as reached when one more step (with the validation and checkpoint that
    may follow it), as long as the longest so far, and a save of the same length would not fit.

    Args:
        margin_seconds: Time to keep free before the end of the job on top of that.
    """

    def __init__(self, margin_seconds: float = 60.0) -> None:
        check_number("margin_seconds", margin_seconds, at_least=0)
        self._margin_seconds = margin_seconds
        self._end_time: float | None = None
        self._boundary_at = 0.0
        self._longest_seconds = 0.0
        self._first_step = 0

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Keep Lightning from registering handlers of its own, which save and communicate."""
        trainer._signal_connector = OwnSignals(trainer)

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Find the end of the job; stop here if there is no time or a signal came earlier."""
        self._end_time = slurm.end_time() if trainer.is_global_zero else None
        self._boundary_at, self._longest_seconds = time.monotonic(), 0.0
        self._first_step = trainer.global_step
        request = self._agreed_request(trainer, pl_module)
        if request == _TIME_LIMIT:
            reason = "the time limit of the job leaves no time for a step: raise --time"
            raise signals.Interrupted(reason, is_settled=True)
        if request:
            self._end(trainer, request, f"{_name(request)} before the first step")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Sequence[Batch],
        batch_idx: int,
    ) -> None:
        """Save and stop if any rank was asked to."""
        now = time.monotonic()
        self._longest_seconds = max(self._longest_seconds, now - self._boundary_at)
        self._boundary_at = now
        request = self._agreed_request(trainer, pl_module)
        if not request:
            return
        name = _name(request)
        checkpoints = find_callbacks(trainer, Checkpoints)
        if not checkpoints:
            reason = f"{name}: nothing saved, callbacks.checkpoint is switched off"
            raise signals.Interrupted(reason, is_settled=True, number=request)
        # Lightning logs a step after the callbacks, and would not come to it.
        trainer._logger_connector.update_train_step_metrics()
        path = checkpoints[0].save_now(trainer, name)
        self._end(trainer, request, f"{name}: saved step {trainer.global_step} in {path}")

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Save where a run of one process was stopped while it waited for the data of a step.

        That is a step boundary too. Other ranks would be waiting in the sums of that step.
        """
        if not isinstance(exception, signals.Interrupted) or exception.is_settled:
            return
        checkpoints = find_callbacks(trainer, Checkpoints)
        is_boundary = trainer.training and trainer.global_step > self._first_step
        if not checkpoints or not is_boundary or trainer.world_size > 1:
            exception.reason += ": nothing saved, the newest checkpoint is whole"
            return
        path = checkpoints[0].save_now(trainer, _name(exception.number))
        exception.reason += f": saved step {trainer.global_step} in {path}"

    def _agreed_request(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> int:
        request = signals.received() or (_TIME_LIMIT if self._is_out_of_time() else 0)
        if trainer.world_size == 1:
            return request
        agreed = trainer.strategy.reduce(
            torch.tensor(request, device=pl_module.device), reduce_op="max"
        )
        assert isinstance(agreed, torch.Tensor)
        return int(agreed)

    def _is_out_of_time(self) -> bool:
        if self._end_time is None:
            return False
        needed = self._margin_seconds + 2 * self._longest_seconds
        return time.time() + needed > self._end_time

    def _end(self, trainer: lightning.Trainer, request: int, reason: str) -> None:
        """Requeue before any rank ends: the first one to end with an error takes the others."""
        answer = slurm.go_on(request) if trainer.is_global_zero else ""
        trainer.strategy.barrier("requeue")
        reason = "; ".join(filter(None, (reason, answer)))
        raise signals.Interrupted(reason, is_settled=True, number=request)


class OwnSignals(_SignalConnector):
    """Leaves the handlers of the program in place.

    Lightning's SIGTERM handler starts a broadcast wherever the rank is, and its SLURM handler
    saves a checkpoint there: ranks that are not at the same line then wait for each other for ever
    (Lightning-AI/pytorch-lightning#20806, #21406).
    """

    def register_signal_handlers(self) -> None:
        """Register nothing."""


def _name(request: int) -> str:
    return "time limit" if request == _TIME_LIMIT else signal.Signals(request).name
