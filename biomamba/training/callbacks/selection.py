"""Keep the weights of the best validation, and stop when nothing better comes."""

import math
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from biomamba.data.datamodule import TrainingData
from biomamba.model.language_model import MambaLM
from biomamba.model.sharding import gather, scatter
from biomamba.runtime.errors import CheckpointError, ConfigError
from biomamba.runtime.numbers import check_whole
from biomamba.training.callbacks.averaging import Ema
from biomamba.training.callbacks.checkpoint import Checkpoints, find_callbacks
from biomamba.training.module import LanguageModelingModule
from biomamba.training.run import save_model

MODES = ("min", "max")


class Selection(lightning.Callback):
    """Keeps the weights that a validation figure was best with; `save` writes them.

    Every validation after a step is a candidate, that of the last step too; the first of equal
    ones wins, and a figure that is not a number never does. Test splits play no part. What is kept
    are the weights that the validation saw, averaged ones with `ema` (it must be before).

    The weights are whole in the checkpoints, so that a resumed run selects what the uninterrupted
    one does: 4 bytes per trained parameter there and in main memory (of a sharded model, on the
    device of each shard).

    Args:
        folder: Where the selected model is written, beside the one of the last step.
        monitor: The figure, as `val/loss` or `val/<task>/nll`.
        mode: Whether `min` or `max` is best.
        patience: Stop the run after so many validations in a row that were not better; None: never.
    """

    def __init__(
        self,
        folder: str,
        monitor: str = "val/loss",
        mode: str = "min",
        patience: int | None = None,
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"mode is {mode!r}; allowed: {', '.join(MODES)}")
        check_whole("patience", patience, optional=True)
        self._folder = Path(folder)
        self._monitor, self._mode, self._patience = monitor, mode, patience
        self._judged_step = self._best_step = self._num_worse = 0
        self._best: float | None = None
        self._weights: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the choice so far with the whole weights, on rank zero; all ranks must call it."""
        return {
            "judged_step": self._judged_step,
            "best_step": self._best_step,
            "best": self._best,
            "num_worse": self._num_worse,
            "weights": gather(self._weights),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the choice of a checkpoint; its weights until the model is on its device."""
        self._judged_step = state_dict["judged_step"]
        self._best_step, self._best = state_dict["best_step"], state_dict["best"]
        self._num_worse = state_dict["num_worse"]
        self._loaded = state_dict["weights"]

    @property
    def judged_step(self) -> int:
        """The step of the last validation that was a candidate."""
        return self._judged_step

    @property
    def is_exhausted(self) -> bool:
        """Whether the run has waited long enough for something better."""
        return self._patience is not None and self._num_worse >= self._patience

    @property
    def description(self) -> dict[str, Any]:
        """Return what was chosen, for the record of the run."""
        return {
            "monitor": self._monitor,
            "mode": self._mode,
            "patience": self._patience,
            "step": self._best_step,
            "figure": self._best,
            "stopped_at_step": self._judged_step if self.is_exhausted else None,
        }

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Refuse an average of the weights that would be validated after this callback was asked.

        Raises:
            ConfigError: `ema` is behind.
        """
        callbacks = find_callbacks(trainer, lightning.Callback)
        if any(isinstance(callback, Ema) for callback in callbacks[callbacks.index(self) :]):
            raise ConfigError("callbacks: selection must be after ema, which it asks")

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Continue with the choice of the checkpoint."""
        self.restore(_model_of(pl_module))
        if self.is_exhausted:
            trainer.should_stop = True

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Compare the figure with the best one; all ranks decide alike."""
        step = trainer.global_step
        if step <= self._judged_step or self.is_exhausted:
            return  # before the first step, or judged already
        self._judged_step = step
        figure = self._figure(trainer)
        if self._is_better(figure):
            model = _model_of(pl_module)
            self._best, self._best_step, self._num_worse = figure, step, 0
            self._weights = _kept(_validated_weights(trainer, model), model)
        else:
            self._num_worse += 1
        trainer.should_stop = trainer.should_stop or self.is_exhausted

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Save the step that the run was stopped at: it is finished and continues from there."""
        if not self.is_exhausted:
            return
        for checkpoints in find_callbacks(trainer, Checkpoints):
            # The scheduled checkpoint was saved before the validation that stopped the run.
            checkpoints.save_now(trainer, "early stop", again=True)

    def save(self, model: MambaLM, datamodule: TrainingData) -> Path | None:
        """Write the selected model and leave the model as it is; all ranks call it.

        Returns:
            The folder; None if no validation gave a number.
        """
        self.restore(model)
        if not self._weights:
            return None
        own = dict(model.named_parameters())
        held = {name: own[name].detach().clone() for name in self._weights}
        _put(own, self._weights)
        try:
            save_model(model, datamodule, self._folder)
        finally:
            _put(own, held)
        return self._folder

    def _figure(self, trainer: lightning.Trainer) -> float:
        figures = trainer.callback_metrics
        if self._monitor not in figures:
            known = sorted(name for name in figures if name.startswith("val/"))
            raise ConfigError(
                f"callbacks.selection.monitor is {self._monitor!r}, which no validation gives; "
                f"there are: {', '.join(known)}"
            )
        return float(trainer.strategy.broadcast(float(figures[self._monitor])))

    def _is_better(self, figure: float) -> bool:
        if not math.isfinite(figure):
            return False
        if self._best is None:
            return True
        return figure < self._best if self._mode == "min" else figure > self._best

    def restore(self, model: MambaLM) -> None:
        """Put the selected weights of a checkpoint where those of the model are, once.

        Must run before the next validation, whose weights would be overwritten by older ones.

        Raises:
            CheckpointError: They are of another model.
        """
        loaded, self._loaded = self._loaded, {}
        own = _trained(model)
        if not loaded:
            return
        if {n: t.shape for n, t in loaded.items()} != {n: t.shape for n, t in own.items()}:
            raise CheckpointError(
                "the selected weights in the checkpoint are of another model; add "
                "callbacks.selection=null, or resume with the model of the checkpoint"
            )
        self._weights = {name: scatter(whole, own[name]) for name, whole in loaded.items()}


def _validated_weights(trainer: lightning.Trainer, model: MambaLM) -> dict[str, Tensor]:
    """Return the weights that the validation saw."""
    own: dict[str, Tensor] = dict(model.named_parameters())
    averages = (ema.validated for ema in find_callbacks(trainer, Ema))
    return next(filter(None, averages), own)


def _trained(model: MambaLM) -> dict[str, Tensor]:
    """Return the weights that differ from step to step."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def _kept(weights: dict[str, Tensor], model: MambaLM) -> dict[str, Tensor]:
    """Copy trained weights: whole ones to main memory, shards where they are."""
    found = {name: weights[name].detach() for name in _trained(model)}
    return {
        name: value.clone() if isinstance(value, DTensor) else value.to("cpu", copy=True)
        for name, value in found.items()
    }


@torch.no_grad()
def _put(own: dict[str, Any], weights: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        own[name].copy_(value)


def _model_of(pl_module: lightning.LightningModule) -> MambaLM:
    assert isinstance(pl_module, LanguageModelingModule)
    return pl_module.model
