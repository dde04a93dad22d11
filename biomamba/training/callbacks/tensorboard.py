"""What a run writes to TensorBoard besides losses: throughput, histograms, layout, settings."""

import re
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import STEP_OUTPUT
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.tensorboard import summary

from biomamba.data.batches import Batch
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import ParameterCount
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_whole
from biomamba.training.callbacks.checkpoint import find_callbacks
from biomamba.training.module import LanguageModelingModule
from biomamba.training.run import holds_tag
from biomamba.training.strategy import ShardedStrategy

# -------------------------------------------------------------------------------------------------
# Which curves TensorBoard's tab CUSTOM SCALARS draws together.
# -------------------------------------------------------------------------------------------------

LAYOUT_TAG: str = CONFIG_SUMMARY_TAG
# Regular expressions, so that the layout holds for any sources, also for those of a later start.
_CHARTS: dict[str, dict[str, list[str]]] = {
    "loss": {
        "training and validation (nats per token)": ["train/loss", "val/loss"],
    },
    "validation by source": {
        "nll (nats per token)": ["val/.+/nll"],
        "perplexity": ["val/.+/perplexity"],
        "bits per byte": ["val/.+/bits_per_byte"],
    },
    "steps": {
        "learning rate": ["train/lr/.+"],
        "gradient norm before clipping": ["train/grad_norm"],
        "skipped steps and spikes, so far": ["train/(skipped_steps|spikes)"],
    },
    "data": {
        "tokens, so far": ["data/tokens"],
        "share of the tokens so far": ["data/token_share/.+"],
        "epochs so far": ["data/epochs/.+"],
    },
    "machine": {
        "tokens per second": ["throughput/(mean_)?tokens_per_second"],
        "part of the time that waits for data": ["throughput/data_wait_ratio"],
        "peak memory (GiB)": ["system/peak_memory_gib"],
    },
}
_BY_LAYER = {"gradient norm by layer, before clipping": ["gradient_norm/.+"]}


def chart_layout(*, has_layers: bool = False) -> dict[str, Any]:
    """Return categories, their charts and the tags of each, as `SummaryWriter` takes them.

    Args:
        has_layers: Whether the run writes the norms of single layers.
    """
    steps = _CHARTS["steps"] | (_BY_LAYER if has_layers else {})
    return {
        category: {title: ["Multiline", tags] for title, tags in charts.items()}
        for category, charts in (_CHARTS | {"steps": steps}).items()
    }


# -------------------------------------------------------------------------------------------------
# The open event files of a run, for what Lightning's loggers cannot write.
# -------------------------------------------------------------------------------------------------


def has_tensorboard(trainer: lightning.Trainer) -> bool:
    """Say, on every rank alike, whether the run writes TensorBoard events."""
    return any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)


def writers_of(trainer: lightning.Trainer) -> list[Any]:
    """Return the SummaryWriter of each TensorBoardLogger; none on other ranks than zero."""
    if not trainer.is_global_zero:
        return []
    loggers = trainer.loggers
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


# -------------------------------------------------------------------------------------------------
# The settings and figures by which TensorBoard's tab HPARAMS compares runs.
# -------------------------------------------------------------------------------------------------

Value = bool | int | float | str
# Name in the table -> where the configuration has it; what a run does not set is left out.
_SETTINGS = {
    "lr": ("optimizer", "lr"),
    "weight_decay": ("optimizer", "weight_decay"),
    "warmup_ratio": ("schedule", "warmup_ratio"),
    "max_tokens": ("max_tokens",),
    "tokens_per_step": ("tokens_per_step",),
    "seq_len": ("data", "budget", "seq_len"),
    "precision": ("trainer", "precision"),
    "seed": ("seed",),
}


def hyper_parameters(
    config: Mapping[str, Any], model: MambaLM, source_weights: Mapping[str, float]
) -> dict[str, Value]:
    """Return the main settings of a run: no paths but that of the checkpoint it started with.

    Args:
        config: The resolved configuration of the program.
        model: What is trained.
        source_weights: Share of each source, averaged over the run.
    """
    found = {name: _at(config, keys) for name, keys in _SETTINGS.items()}
    return {
        "model": str(config["model"].get("checkpoint") or "random weights"),
        "layers": model.config.n_layer,
        "d_model": model.config.d_model,
        "trained_parameters": ParameterCount.of(model).trained,
        **{name: value for name, value in found.items() if isinstance(value, Value)},
        **{f"mixture/{name}": float(weight) for name, weight in source_weights.items()},
    }


def compared_metrics(sources: Iterable[str]) -> list[str]:
    """Return the tags whose last points are the results of a run."""
    figures = [f"val/{name}/{key}" for name in sources for key in ("perplexity", "bits_per_byte")]
    return ["val/loss", *figures, "throughput/mean_tokens_per_second", "data/tokens"]


def _at(config: Mapping[str, Any], keys: Iterable[str]) -> Any:
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


# -------------------------------------------------------------------------------------------------
# How the weights, the step sizes dt, the decays A and the gradients of the layers are spread.
# -------------------------------------------------------------------------------------------------

_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")
_MAX_VALUES = 65_536  # of a histogram; of larger tensors every n-th value counts


class Histograms(lightning.Callback):
    """Writes histograms and the gradient norm of each layer to TensorBoard.

    Of trained parameters only. `weights/<layer>/<parameter>`; `dt/<layer>`, softplus of the bias,
    which is the step size where the input adds nothing to it; `A/<layer>`, the rate exp(A_log) by
    which a state decays per unit of dt; `gradient_norm/<layer>`, before clipping: the root of the
    sum of their squares is train/grad_norm.

    Args:
        every_n_steps: Steps between two of them; also written after the first step.
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
    """Return the norm of the gradient of each layer, and of what is outside of the layers."""
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


# -------------------------------------------------------------------------------------------------
# What TensorBoard knows of a run as a whole: the layout of its charts and its settings.
# -------------------------------------------------------------------------------------------------

_SUMMARIES: Any = summary  # torch says no types of it


class RunPage(lightning.Callback):
    """Writes the layout of the tab CUSTOM SCALARS and the row of the tab HPARAMS.

    Both once per run: a resumed one finds them in the event files of its first start. The figures
    of the row are the last points of the curves, so they are the final ones when the run is over.

    Args:
        config: The resolved configuration of the program.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write both, before the first step."""
        assert isinstance(pl_module, LanguageModelingModule)
        has_layers = bool(find_callbacks(trainer, Histograms))
        weights, is_new = pl_module.source_weights, trainer.global_step == 0
        for writer in writers_of(trainer):
            folder = Path(writer.get_logdir())
            if is_new or not holds_tag(folder, LAYOUT_TAG):
                writer.add_custom_scalars(chart_layout(has_layers=has_layers))
            if is_new or not holds_tag(folder, SESSION_START_INFO_TAG):
                settings = hyper_parameters(self._config, pl_module.model, weights)
                metrics = dict.fromkeys(compared_metrics(weights), 0.0)
                experiment, start, _ = _SUMMARIES.hparams(settings, metrics)
                for part in (experiment, start):
                    writer._get_file_writer().add_summary(part)
            writer.flush()

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Say that the run is over."""
        for writer in writers_of(trainer):
            _, _, end = _SUMMARIES.hparams({}, {})
            writer._get_file_writer().add_summary(end)


# -------------------------------------------------------------------------------------------------
# Log tokens per second, the wait for data, and peak memory.
# -------------------------------------------------------------------------------------------------

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
