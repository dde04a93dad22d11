"""An exponential moving average of the weights: what the paper validates and publishes."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.distributed.tensor import DTensor

from biomamba.data.batches import Batch
from biomamba.data.datamodule import TrainingData
from biomamba.model.language_model import MambaLM
from biomamba.model.sharding import gather, scatter
from biomamba.runtime.errors import CheckpointError
from biomamba.runtime.numbers import check_number
from biomamba.training.module import LanguageModelingModule
from biomamba.training.run import save_model


class Ema(lightning.Callback):
    """Keeps average = decay * average + (1 - decay) * weights, after every step that was taken.

    It starts with the weights before the first step. Kept in float32 beside the weights (4 bytes
    per parameter, of a sharded model those of the own shard), and whole in the checkpoints.
    It must be before the callbacks that save checkpoints.
    Source: LeoYML/BioMamba@e61db22, the training code of arXiv 2408.02600: decay 0.999.

    Args:
        folder: Where the averaged model is written at the end, beside the one of the last step.
        decay: Part of the average that stays at a step.
        validate: Validate the average in place of the weights.
    """

    def __init__(self, folder: str, decay: float = 0.999, *, validate: bool = True) -> None:
        check_number("decay", decay, at_least=0, below=1)
        self._folder = Path(folder)
        self._decay = decay
        self._validates = validate
        self._average: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] = {}
        self._is_swapped = False

    def state_dict(self) -> dict[str, Any]:
        """Return the whole average, on rank zero; all ranks must call it."""
        assert not self._is_swapped, "a checkpoint in the middle of a validation"
        return {"average": gather(self._average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the average of a checkpoint until the model is on its device."""
        self._loaded = state_dict["average"]

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start with the average of the checkpoint, or with the weights if it has none."""
        self._average = {}
        self.restore(_model_of(pl_module))

    def restore(self, model: MambaLM) -> None:
        """Put the average of the checkpoint beside the weights, unless it is there already.

        A run that continues after its last step never starts a fit, and still needs the average for
        its validation and for the averaged model.

        Raises:
            CheckpointError: If the average is of another model.
        """
        if self._average:
            return
        weights = dict(model.named_parameters())
        loaded, self._loaded = self._loaded, {}
        if loaded and {n: t.shape for n, t in loaded.items()} != {
            n: t.shape for n, t in weights.items()
        }:
            raise CheckpointError(
                "the averaged weights in the checkpoint are of another model; add "
                "callbacks.ema=null, or resume with the model of the checkpoint"
            )
        self._average = {
            name: _copy(scatter(loaded[name], weight) if loaded else weight, weight)
            for name, weight in weights.items()
        }

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Sequence[Batch],
        batch_idx: int,
    ) -> None:
        """Move the average towards the weights."""
        assert isinstance(pl_module, LanguageModelingModule)
        if not pl_module.is_step_taken:
            return
        weights = [_local(weight) for weight in pl_module.model.parameters()]
        averages = [_local(average) for average in self._average.values()]
        torch._foreach_lerp_(averages, weights, 1 - self._decay)

    def save(self, model: MambaLM, datamodule: TrainingData) -> Path:
        """Write the averaged model and leave the model as it is; all ranks call it."""
        self.restore(model)
        with self.averaged(model):
            save_model(model, datamodule, self._folder)
        return self._folder

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Put the average in the place of the weights; before the first step it is equal."""
        if self._validates and self._average:
            self._swap(_model_of(pl_module))

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Put the weights back."""
        if self._is_swapped:
            self._swap(_model_of(pl_module))

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Put the weights back."""
        if self._is_swapped:
            self._swap(_model_of(pl_module))

    @property
    def validated(self) -> dict[str, Tensor]:
        """The weights that validations see; empty if they see those of the model."""
        assert not self._is_swapped, "the model has the average, and this the weights"
        return self._average if self._validates else {}

    @contextmanager
    def averaged(self, model: MambaLM) -> Generator[None]:
        """Let the model have the averaged weights for a while."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: MambaLM) -> None:
        """Exchange weights and average, one tensor at a time: a copy of one is needed, not of all.

        The optimizer and the wrappers of a strategy hold on to the tensors, so the contents move.
        """
        for weight, average in zip(model.parameters(), self._average.values(), strict=True):
            mine, other = _local(weight), _local(average)
            held = mine.clone()
            mine.copy_(other)
            other.copy_(held)
        self._is_swapped = not self._is_swapped


def _model_of(pl_module: lightning.LightningModule) -> MambaLM:
    assert isinstance(pl_module, LanguageModelingModule)
    return pl_module.model


def _copy(value: Tensor, like: Tensor) -> Tensor:
    return value.detach().to(like.device, torch.float32, copy=True)


def _local(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor; shares its memory."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
