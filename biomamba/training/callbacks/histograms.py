"""How the weights, the step sizes dt, the decays A and the gradients of the layers are spread."""

import re
from collections.abc import Iterator

import lightning
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_whole
from biomamba.training.event_writers import has_tensorboard, writers_of
from biomamba.training.module import LanguageModelingModule
from biomamba.training.strategy import ShardedStrategy

_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")
_MAX_VALUES = 65_536  # of a histogram; of larger tensors every n-th value counts


class Histograms(lightning.Callback):
    """Writes histograms and the gradient norm of each layer to TensorBoard.

    Of trained parameters only. `weights/<layer>/<parameter>`; `dt/<layer>`, softplus of the bias,
    which is the step size where the input adds nothing to it; `A/<layer>`, the rate exp(A_log) by
    which a state decays per unit of dt; `gradient_norm/<layer>`, before clipping: the root of the
    sum of their squares is train/grad_norm.

    Args:
        every_n_steps: Steps between two of them; also written behind the first step.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        check_whole("every_n_steps", every_n_steps)
        self._every_n_steps = every_n_steps
        self._norms: dict[str, float] = {}

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Refuse runs that have no whole weights, or no place to write to.

        Raises:
            ConfigError: on all ranks alike.
        """
        if isinstance(trainer.strategy, ShardedStrategy):
            raise ConfigError(
                "callbacks.histograms: the weights of this trainer are sharded, no rank has whole "
                "ones; choose a trainer without fsdp, or callbacks.histograms=null"
            )
        if not has_tensorboard(trainer):
            raise ConfigError(
                "callbacks.histograms writes to TensorBoard alone: add logger=[tensorboard], or "
                "callbacks.histograms=null"
            )

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        optimizer: Optimizer,
    ) -> None:
        """Take the norms before the module clips the gradients."""
        if self._is_due(trainer.global_step + 1) and trainer.is_global_zero:
            self._norms = gradient_norms(pl_module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object
    ) -> None:
        """Write norms and histograms when it is time."""
        step = trainer.global_step
        if not self._is_due(step):
            return
        assert isinstance(pl_module, LanguageModelingModule)
        for writer in writers_of(trainer):
            for layer, norm in self._norms.items():
                writer.add_scalar(f"gradient_norm/{layer}", norm, step)
            for tag, values in spreads(pl_module):
                writer.add_histogram(tag, values, step)

    def _is_due(self, step: int) -> bool:
        return step == 1 or step % self._every_n_steps == 0


@torch.no_grad()
def gradient_norms(module: torch.nn.Module) -> dict[str, float]:
    """Return the norm of the gradient of each layer, and of what lies outside of the layers."""
    squares: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            norm = torch.linalg.vector_norm(parameter.grad, dtype=torch.float32)
            squares.setdefault(_place(name)[0], []).append(norm.square())
    return {layer: float(torch.stack(found).sum().sqrt()) for layer, found in squares.items()}


@torch.no_grad()
def spreads(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tag and the values of each histogram."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, rest = _place(name)
        values = _some(parameter.detach())
        if len(values):
            yield f"weights/{layer}/{rest}", values
            if rest.endswith("A_log"):
                yield f"A/{layer}", values.exp()
            if rest.endswith(("dt_bias", "dt_proj.bias")):
                yield f"dt/{layer}", F.softplus(values)


def _place(name: str) -> tuple[str, str]:
    """Return the layer of a parameter and the rest of its name."""
    if match := _LAYER.fullmatch(name):
        return f"layer_{int(match[1]):02d}", match[2].removeprefix("mixer.")
    return "outside_layers", name.removeprefix("model.").removeprefix("backbone.")


def _some(values: Tensor) -> Tensor:
    """Return finite values of a tensor, evenly spaced where it has many; (n,)."""
    flat = values.flatten()
    # Odd, so that it does not fall on the same few columns of a matrix again and again.
    stride = -(-flat.numel() // _MAX_VALUES) | 1
    found = flat[::stride].float().cpu()
    return found[found.isfinite()]
