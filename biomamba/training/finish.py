"""The end of a run, and the validations that a stop has cut off.

What a run leaves is a function of its last checkpoint: a run that is started again after its last
step validates, selects and writes what the uninterrupted run does. Lightning's hooks cannot do that
alone, because a fit without a step left to take calls none of them.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from torch import Tensor
from torch.distributed.tensor import DTensor

from biomamba.data.datamodule import TrainingData
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import TrainingError
from biomamba.training.callbacks.averaging import Ema
from biomamba.training.callbacks.checkpoint import find_callbacks, way_back
from biomamba.training.callbacks.ledger import LedgerWriter
from biomamba.training.callbacks.selection import Selection
from biomamba.training.module import LanguageModelingModule
from biomamba.training.run import RunRecord, save_model

Figures = Sequence[Mapping[str, float]]


class DueValidation(lightning.Callback):
    """Makes the validation of the step that a run continues at, where the stop came before it.

    Checkpoints are saved before the validation of their step. It must come after the callbacks
    that a validation concerns (`Ema`, `Selection`), so that they have taken in the checkpoint.
    """

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Validate if the selection has not seen this step, or the curves lack its points."""
        step = trainer.global_step
        if step == 0 or not _is_validated_in_fit(trainer):
            return
        selections = find_callbacks(trainer, Selection)
        is_judged = all(c.judged_step >= step or c.is_exhausted for c in selections)
        is_drawn = trainer.strategy.broadcast(_is_drawn(trainer, step))
        if is_judged and is_drawn:
            return
        validation = trainer.fit_loop.epoch_loop.val_loop
        # It is a new one. Lightning would count the batches of the one before the checkpoint as
        # read, and end before the last loaders gave any.
        validation.restarting = False
        trainer.validating = True
        with missing_points_only(trainer):
            validation.run()
        trainer.training = True


def finish(
    trainer: lightning.Trainer,
    module: LanguageModelingModule,
    datamodule: TrainingData,
    record: RunRecord,
    run_dir: Path,
) -> list[str]:
    """Validate, check and write what a run leaves; its record is closed last of all.

    All ranks call it after the fit, whether the fit took a step or not.

    Returns:
        Lines for the user.

    Raises:
        TrainingError: The run is not finished: steps are missing, the last one was skipped, or its
            figures or weights are not finite. No model is written.
    """
    selections = find_callbacks(trainer, Selection)
    averages = find_callbacks(trainer, Ema)
    try:
        for average in averages:
            average.restore(module.model)
        for selection in selections:
            selection.restore(module.model)
        for ledger in find_callbacks(trainer, LedgerWriter):
            ledger.restore(trainer)
        record.ensure_started(trainer.global_step, trainer.world_size)
        check_all_steps(
            trainer,
            datamodule.budget.num_steps,
            module.guard.skipped_in_a_row,
            is_stopped_early=any(found.is_exhausted for found in selections),
        )
        figures = final_figures(trainer, module, datamodule)
        check_figures(figures, "the last validation")
        check_weights(module.model, trainer)
        lines = [f"model: {save_model(module.model, datamodule, run_dir / 'model')}"]
        lines += [f"averaged: {found.save(module.model, datamodule)}" for found in averages]
        for found in selections:
            folder = found.save(module.model, datamodule)
            lines.append(f"selected: {folder}, {found.description}")
    except BaseException as error:
        with suppress(OSError):  # a full disk must not hide what ended the run
            record.end(f"{type(error).__name__}: {error}")
        raise
    description = next((found.description for found in selections), None)
    record.close(figures, module.seen.realised(), description)
    return lines


def final_figures(
    trainer: lightning.Trainer, module: LanguageModelingModule, datamodule: TrainingData
) -> Figures:
    """Return the figures after the last step; validate unless the fit has just done it."""
    metrics = trainer.callback_metrics
    # A run that was stopped after its last step has not validated in this process.
    has_figures = any(name.startswith("val/") for name in metrics)
    if not _is_validated_in_fit(trainer) or not has_figures:
        with missing_points_only(trainer):
            return trainer.validate(module, datamodule, verbose=False)
    wanted = {n: value for n, value in metrics.items() if n == "step" or n.startswith("val/")}
    return [{name: float(value) for name, value in wanted.items()}]


def check_all_steps(
    trainer: lightning.Trainer,
    num_steps: int,
    skipped_in_a_row: int,
    *,
    is_stopped_early: bool = False,
) -> None:
    """Check that a run took its last step.

    Raises:
        TrainingError: The fit ended before the last step, or the last step was skipped.
    """
    step = trainer.global_step
    if step < num_steps and not is_stopped_early:
        raise TrainingError(
            f"the fit ended after {step} of {num_steps} steps, so the run is not finished and no "
            "model is written; run the same command again to continue"
        )
    if skipped_in_a_row:
        raise TrainingError(
            f"the last {skipped_in_a_row} of {step} steps were skipped, because their loss or "
            "gradients were not finite: the run is not finished and no model is written; "
            f"{way_back(trainer, step - skipped_in_a_row)}"
        )


def check_figures(figures: Figures, what: str) -> None:
    """Check that all figures of a validation are finite.

    Raises:
        TrainingError: One is not; it is named.
    """
    found = {n: v for result in figures for n, v in result.items() if not math.isfinite(v)}
    if found:
        listed = ", ".join(f"{name} = {value}" for name, value in sorted(found.items()))
        raise TrainingError(
            f"{what} gave figures that are not finite ({listed}): no model is written. Lower "
            "optimizer.lr or train in 32-true, from an earlier checkpoint or in another run"
        )


def check_weights(model: MambaLM, trainer: lightning.Trainer) -> None:
    """Check that all weights are finite; each rank checks what it holds, and all decide alike.

    Raises:
        TrainingError: A tensor holds a number that is not finite.
    """
    tensors = dict(model.named_parameters())
    faulty = [name for name, weight in tensors.items() if not _is_finite(weight)]
    count = torch.tensor(len(faulty), device=trainer.strategy.root_device)
    total = trainer.strategy.reduce(count, reduce_op="sum")
    if int(total):
        where = ", ".join(faulty[:3]) or "on another rank"
        raise TrainingError(
            f"the weights are not finite ({where}): no model is written. Lower optimizer.lr or "
            "train in 32-true, from an earlier checkpoint or in another run"
        )


def _is_finite(weight: Tensor) -> bool:
    local = weight.to_local() if isinstance(weight, DTensor) else weight
    return bool(torch.isfinite(local).all())


@contextmanager
def missing_points_only(trainer: lightning.Trainer) -> Generator[None]:
    """Draw no point of this step twice: log only what the event files lack of it."""
    step = trainer.global_step
    with ExitStack() as stack:
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, TensorBoardLogger):
                drawn = drawn_tags(Path(logger.log_dir), step)
                stack.enter_context(_without_tags(logger, drawn))
        yield


def drawn_tags(folder: Path, step: int) -> set[str]:
    """Return the tags that have a point at a step in the event files of a folder.

    Each start purges the points of the earlier ones at and after its own first step.
    """
    tags: set[str] = set()
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            if event.session_log.status == SessionLog.START and event.step <= step:
                tags.clear()
            elif event.step == step:
                tags.update(value.tag for value in event.summary.value)
    return tags


@contextmanager
def _without_tags(logger: TensorBoardLogger, tags: set[str]) -> Generator[None]:
    log_metrics = logger.log_metrics

    def log_missing(metrics: Any, step: int | None = None) -> None:
        log_metrics({name: v for name, v in metrics.items() if name not in tags}, step)

    logger.log_metrics = log_missing  # type: ignore[method-assign]
    try:
        yield
    finally:
        logger.log_metrics = log_metrics  # type: ignore[method-assign]


def _is_drawn(trainer: lightning.Trainer, step: int) -> bool:
    """Say whether every TensorBoard logger of rank zero has the validation of a step."""
    folders = [Path(x.log_dir) for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
    return all("val/loss" in drawn_tags(folder, step) for folder in folders)


def _is_validated_in_fit(trainer: lightning.Trainer) -> bool:
    """Say whether the fit validates after the step that it is at."""
    interval: Any = trainer.val_check_batch
    return isinstance(interval, int) and trainer.global_step % interval == 0
