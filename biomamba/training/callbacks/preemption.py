"""Stop at a step boundary for a signal or time limit, and detect ranks that have diverged."""

import signal
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import lightning
import torch
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.distributed.tensor import DTensor

from biomamba.data.batches import Batch
from biomamba.data.datamodule import TrainingData
from biomamba.runtime import signals, slurm
from biomamba.runtime.errors import TrainingError
from biomamba.runtime.numbers import check_number, check_whole
from biomamba.training.callbacks.checkpoint import Checkpoints, find_callbacks
from biomamba.training.checkpoint_io import DurableCheckpointIO
from biomamba.training.module import LanguageModelingModule

# -------------------------------------------------------------------------------------------------
# Find out that the ranks of a run have come apart, before they spoil its result.
# -------------------------------------------------------------------------------------------------

# What all ranks must have in common, in the order of the gathered numbers.
SHARED = (
    "step",
    "position in the data",
    "data fingerprint",
    "checkpoint",
    "skipped steps",
    "weights",
)
# What each rank must have for itself: its rows, one after the other.
OWN = ("first row", "rows", "gaps")
_NO_ROWS = (-1, 0, 0)


class Agreement(lightning.Callback):
    """Compares the ranks before the first step and every `every_n_steps` steps.

    They must be at the same step of the same stream with the same weights, have gone on from the
    same bits of a checkpoint, and their rows must be the rows of the step: none missing, none
    twice. Otherwise all ranks stop. A rank can come apart by a checkpoint, code or data of its own,
    or by memory that loses bits.

    Sharded weights are left out: each rank holds another part, so there is nothing to compare with
    but the checkpoint that the parts were cut from.

    Costs a pass over the weights and one all-reduce of nine numbers per rank.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        check_whole("every_n_steps", every_n_steps)
        self._every_n_steps = every_n_steps

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Compare what the ranks start with."""
        table = _gather(trainer, pl_module, _NO_ROWS)
        _stop(trainer, difference(table))

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Sequence[Batch],
        batch_idx: int,
    ) -> None:
        """Compare the ranks when it is time."""
        data = _data_of(trainer)
        if data.consumed_steps % self._every_n_steps:
            return
        row_ids = torch.cat([part.row_ids for part in batch])
        gaps = (row_ids.diff() != 1).sum()
        table = _gather(trainer, pl_module, (int(row_ids[0]), len(row_ids), int(gaps)))
        num_rows = data.budget.sequences_per_step
        first_row = (data.consumed_steps - 1) * num_rows
        _stop(trainer, difference(table) or misplaced_rows(table, first_row, num_rows))


def difference(table: Sequence[Mapping[str, int]]) -> str | None:
    """Say which ranks differ from most others, and in what; None if none does."""
    found = []
    for name in SHARED:
        values = [row[name] for row in table]
        usual, _ = Counter(values).most_common(1)[0]
        others = [f"rank {rank} ({v:,})" for rank, v in enumerate(values) if v != usual]
        if others:
            found.append(f"{name}: {', '.join(others)}, the others {usual:,}")
    return "; ".join(found) or None


def misplaced_rows(table: Sequence[Mapping[str, int]], first_row: int, num_rows: int) -> str | None:
    """Say which ranks trained on other rows than their part of a step; None if none did."""
    share = num_rows // len(table)
    found = []
    for rank, row in enumerate(table):
        begin = first_row + rank * share
        if (row["first row"], row["rows"], row["gaps"]) != (begin, share, 0):
            found.append(
                f"rank {rank} trained on {row['rows']} rows from {row['first row']:,} on with "
                f"{row['gaps']} gaps, its part are {share} from {begin:,} on"
            )
    return "; ".join(found) or None


@torch.no_grad()
def checksum(tensors: Iterable[Tensor]) -> int:
    """Add up the bits of tensors; a change of one element always changes the sum.

    Sharded tensors are left out.
    """
    whole = [tensor for tensor in map(_replica, tensors) if tensor is not None and tensor.numel()]
    if not whole:
        return 0
    sums = torch.stack([_words(tensor).sum(dtype=torch.int64) for tensor in whole])
    # Odd factors, so that equal changes of two tensors do not cancel; the products may wrap.
    factors = 2 * torch.arange(len(whole), device=sums.device) + 1
    return int((sums * factors).sum())


def _replica(tensor: Tensor) -> Tensor | None:
    """Return what this rank holds of a tensor if all ranks hold the same, else None."""
    if not isinstance(tensor, DTensor):
        return tensor
    is_whole = all(placement.is_replicate() for placement in tensor.placements)
    return tensor.to_local() if is_whole else None


def _words(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().flatten()
    num_bytes = flat.numel() * flat.element_size()
    return flat.view(torch.uint8 if num_bytes % 4 else torch.int32)


def _gather(
    trainer: lightning.Trainer, pl_module: lightning.LightningModule, rows: Sequence[int]
) -> list[dict[str, int]]:
    """Return the figures of all ranks by name."""
    assert isinstance(pl_module, LanguageModelingModule)
    data = _data_of(trainer)
    fingerprint = blake2b(data.fingerprint.encode(), digest_size=7).digest()
    own = (
        trainer.global_step,
        data.consumed_steps,
        int.from_bytes(fingerprint, "big"),
        _checkpoint_of(trainer),
        pl_module.guard.skipped_steps,
        checksum([*pl_module.parameters(), *pl_module.buffers()]),
        *rows,
    )
    names = (*SHARED, *OWN)
    size = (trainer.world_size, len(names))
    numbers = torch.zeros(size, dtype=torch.int64, device=pl_module.device)
    numbers[trainer.global_rank] = torch.tensor(own)
    table: Any = trainer.strategy.reduce(numbers, reduce_op="sum")
    return [dict(zip(names, row, strict=True)) for row in table.tolist()]


def _checkpoint_of(trainer: lightning.Trainer) -> int:
    """Return seven bytes of the hash of the checkpoint of the start; 0 without one."""
    io = trainer.strategy.checkpoint_io
    digest = io.loaded_digest if isinstance(io, DurableCheckpointIO) else None
    return int(digest[:14], 16) if digest else 0


def _stop(trainer: lightning.Trainer, problem: str | None) -> None:
    """Stop all ranks, which know the same problem."""
    if problem is not None:
        raise TrainingError(
            f"the ranks of the run have come apart after step {trainer.global_step}: {problem}. "
            "Start them with the same code, configuration, data and checkpoint; if they did, "
            "suspect the memory of the machine and continue from a checkpoint that was made before"
        )


def _data_of(trainer: lightning.Trainer) -> TrainingData:
    data = getattr(trainer, "datamodule", None)
    assert isinstance(data, TrainingData)
    return data


# -------------------------------------------------------------------------------------------------
# Stop in time: save at a step boundary, put the job back into the queue, end the process.
#
# A signal (see runtime/signals.py) or the time limit of the SLURM job asks for it. All ranks agree
# at the end of each step, so that they stop at the same one: an all-reduce of one number, 0.3 ms
# between two processes over gloo on one busy machine.
# -------------------------------------------------------------------------------------------------

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
