"""Find out that the ranks of a run have come apart, before they spoil its result."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.distributed.tensor import DTensor

from biomamba.data.batches import Batch
from biomamba.data.training_data import TrainingData
from biomamba.runtime.errors import TrainingError
from biomamba.runtime.numbers import check_whole
from biomamba.training.checkpoint_io import DurableCheckpointIO
from biomamba.training.module import LanguageModelingModule

# What all ranks must have in common, in the order of the gathered numbers.
SHARED = (
    "step",
    "position in the data",
    "data fingerprint",
    "checkpoint",
    "skipped steps",
    "weights",
)
# What each rank must have for itself: its rows, one behind the other.
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
        """Compare what the ranks begin with."""
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
    """Return seven bytes of the hash of the checkpoint that the run went on from; 0 without one."""
    io = trainer.strategy.checkpoint_io
    digest = io.loaded_digest if isinstance(io, DurableCheckpointIO) else None
    return int(digest[:14], 16) if digest else 0


def _stop(trainer: lightning.Trainer, problem: str | None) -> None:
    """Stop all ranks, which know the same problem."""
    if problem is not None:
        raise TrainingError(
            f"the ranks of the run have come apart behind step {trainer.global_step}: {problem}. "
            "Start them with the same code, configuration, data and checkpoint; if they did, "
            "suspect the memory of the machine and go on from a checkpoint that was made before"
        )


def _data_of(trainer: lightning.Trainer) -> TrainingData:
    data = getattr(trainer, "datamodule", None)
    assert isinstance(data, TrainingData)
    return data
