"""When checkpoints are saved, and which of them are kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT

from biomamba.data.batches import Batch
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_whole
from biomamba.runtime.random_state import load_rng_state, rng_state
from biomamba.training.checkpoint_io import (
    RUN_KEY,
    DurableCheckpointIO,
    checkpoint_name,
    checkpoints_in,
)
from biomamba.training.resume import RunContext

_Found = TypeVar("_Found")

_RNG_KEY = "rng_states"


def find_callbacks(trainer: lightning.Trainer, kind: type[_Found]) -> list[_Found]:
    """Return the callbacks of a class, in their order; none for a trainer without callbacks."""
    callbacks: Any = getattr(trainer, "callbacks", ())
    return [callback for callback in callbacks if isinstance(callback, kind)]


class Checkpoints(Checkpoint):
    """Saves at step boundaries, on all ranks together; the last step is always saved.

    Lightning calls it after all other callbacks, so that they have taken in the step.

    Args:
        folder: Where the checkpoints are.
        every_n_steps: Steps between two checkpoints.
        keep_last: How many of the newest are kept; with at least two, a damaged one costs no more
            than every_n_steps.
        keep_every_steps: Checkpoints at multiples of this are kept for good; None for no others.
        in_background: Write while the training continues, from a copy in main memory (of weights
            and optimizer, 12 bytes per parameter); an error then stops the run at a later step.
        run: The run; every checkpoint repeats its settings. The program gives it.
    """

    def __init__(
        self,
        folder: str,
        every_n_steps: int = 100,
        keep_last: int = 2,
        keep_every_steps: int | None = None,
        *,
        in_background: bool = False,
        run: RunContext | None = None,
    ) -> None:
        check_whole("every_n_steps", every_n_steps)
        check_whole("keep_last", keep_last)
        check_whole("keep_every_steps", keep_every_steps, optional=True)
        self.folder = Path(folder)
        self._settings = run.settings if run else {}
        self._every_n_steps = every_n_steps
        self._keep_last = keep_last
        self._keep_every_steps = keep_every_steps
        self._in_background = in_background
        self._reason = "asked for"
        self._saved_step: int | None = None
        self._must_prune = False
        self._rng_states: list[dict[str, Any]] = []
        self._group_options: list[dict[str, Any]] = []

    def save_now(self, trainer: lightning.Trainer, reason: str, *, again: bool = False) -> Path:
        """Save at this step boundary and return the durable file; all ranks must call it.

        Args:
            trainer: At a step boundary.
            reason: Why, for the record of the checkpoint.
            again: Replace the checkpoint of this step if there is one, because what callbacks
                know has changed since.
        """
        if again:
            self._saved_step = None
        path = self._save(trainer, reason)
        _io_of(trainer).wait()
        trainer.strategy.barrier("checkpoint")
        return path

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Choose how the files are written."""
        _io_of(trainer).is_background = self._in_background

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Note the options of the optimizer before a checkpoint overwrites them."""
        self._group_options = [
            {name: value for name, value in group.items() if name not in {"params", "lr"}}
            for optimizer in trainer.optimizers
            for group in optimizer.param_groups
        ]

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Continue with the random states of the checkpoint, and the optimizer options of now.

        Options that differ from those of the checkpoint were allowed to change.
        """
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        for group, options in zip(groups, self._group_options, strict=True):
            group.update(options)
        if trainer.global_rank < len(self._rng_states):
            load_rng_state(self._rng_states[trainer.global_rank])
        self._saved_step = None

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Sequence[Batch],
        batch_idx: int,
    ) -> None:
        """Write the point of the step that was saved: Lightning logs it after the callbacks."""
        if self._saved_step == trainer.global_step:
            _flush_curves(trainer)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Sequence[Batch],
        batch_idx: int,
    ) -> None:
        """Save when it is time."""
        _io_of(trainer).raise_failure()
        self._prune(trainer)
        step = trainer.global_step
        if step % self._every_n_steps == 0 or step == trainer.max_steps:
            self._save(trainer, "last step" if step == trainer.max_steps else "schedule")

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Wait until all is durable."""
        _io_of(trainer).wait()
        self._prune(trainer)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Let the checkpoint in flight get home."""
        if isinstance(io := trainer.strategy.checkpoint_io, DurableCheckpointIO):
            io.teardown()

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Add the random states of all ranks and what the record repeats."""
        states: list[dict[str, Any]] = [rng_state()]
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, states[0])
            states = gathered
        checkpoint[_RNG_KEY] = states
        checkpoint[RUN_KEY] = {
            "step": trainer.global_step,
            "reason": self._reason,
            "settings": dict(self._settings),
        }

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Remember the random states; another number of ranks starts with those of the seed."""
        states = checkpoint.get(_RNG_KEY, [])
        self._rng_states = states if len(states) == trainer.world_size else []

    def _save(self, trainer: lightning.Trainer, reason: str) -> Path:
        step = trainer.global_step
        path = self.folder / checkpoint_name(step)
        if self._saved_step != step:
            self._reason = reason
            _flush_curves(trainer)
            trainer.save_checkpoint(path)
            self._saved_step = step
            self._must_prune = True
            self._prune(trainer)
        return path

    def _prune(self, trainer: lightning.Trainer) -> None:
        """Remove what need not be kept, once the newest is durable."""
        io = _io_of(trainer)
        if not self._must_prune or not trainer.is_global_zero or not io.is_idle:
            return
        io.raise_failure()
        self._must_prune = False
        found = checkpoints_in(self.folder)
        saved = [step for step in found if step <= (self._saved_step or 0)]
        kept = {*saved[: self._keep_last], *self._before_skipped(trainer, saved)}
        for step in saved:
            if step in kept or (self._keep_every_steps and step % self._keep_every_steps == 0):
                continue
            io.remove_checkpoint(found[step])

    def _before_skipped(self, trainer: lightning.Trainer, saved: Sequence[int]) -> list[int]:
        """Return the newest checkpoints before the steps that are being skipped.

        While steps are skipped, newer checkpoints hold the weights that made them fail. Without
        these older ones nothing would be left to continue from at a lower learning rate.
        """
        guard = getattr(trainer.lightning_module, "guard", None)
        skipped = guard.skipped_in_a_row if guard is not None else 0
        if not skipped:
            return []
        last_taken = trainer.global_step - skipped
        return [step for step in saved if step <= last_taken][: self._keep_last]


def way_back(trainer: lightning.Trainer, last_taken: int) -> str:
    """Say which checkpoint is before skipped steps or spoiled weights, and how to use it.

    Args:
        trainer: Of the run.
        last_taken: The last step that was not skipped.
    """
    checkpoints = find_callbacks(trainer, Checkpoints)
    if not checkpoints:
        return "callbacks.checkpoint is switched off, so nothing is there to continue from"
    folder = checkpoints[0].folder
    older = [path for step, path in checkpoints_in(folder).items() if step <= last_taken]
    if not older:
        return (
            f"{folder} holds no checkpoint at or before step {last_taken}: start again in another "
            "run (run_id=<new>) with a lower optimizer.lr"
        )
    others = f"from {older[1]}, or " if older[1:] else ""
    return (
        f"the newest checkpoint before that is {older[0]}: continue from it in another run "
        f"(run_id=<new> resume={older[0]} allow_change=true) with a lower optimizer.lr; if steps "
        f"are skipped again, its weights are spoiled: continue {others}from the beginning"
    )


def _flush_curves(trainer: lightning.Trainer) -> None:
    """Write the points up to here: a killed run would take up to two minutes of them with it."""
    for logger in trainer.loggers:
        logger.save()


def _io_of(trainer: lightning.Trainer) -> DurableCheckpointIO:
    io = trainer.strategy.checkpoint_io
    if not isinstance(io, DurableCheckpointIO):
        raise ConfigError(
            f"the trainer writes checkpoints with {type(io).__name__}; give it the plugin "
            "DurableCheckpointIO"
        )
    return io
