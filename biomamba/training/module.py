"""The LightningModule of every stage: one batch is one optimiser step.

Manual optimisation, because only then is a step the unit of everything: the loader yields the
micro-batches of one step, the loss is divided by the true number of target tokens of all ranks,
and a checkpoint never lies between two micro-batches.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from biomamba.data.batches import Batch
from biomamba.metrics.perplexity import TokenNll
from biomamba.model.cross_entropy import linear_cross_entropy
from biomamba.model.mamba2 import Mamba2LM
from biomamba.runtime.errors import ConfigError, TrainingError
from biomamba.training.optimizer import AdamW
from biomamba.training.schedule import Schedule
from biomamba.training.source_counts import SourceCounts
from biomamba.training.strategy import ShardedStrategy


@dataclass(frozen=True)
class Objective:
    """Limits of a step.

    max_grad_norm clips the global gradient norm. A loss scaler (16-mixed) skips a step whose
    gradients overflow and halves its scale; after max_skipped_steps of them in a row the run stops.
    """

    max_grad_norm: float = 1.0
    max_skipped_steps: int = 20

    def __post_init__(self) -> None:
        if self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be positive, got {self.max_grad_norm}")
        if self.max_skipped_steps < 1:
            raise ValueError(f"max_skipped_steps must be at least 1, got {self.max_skipped_steps}")


class LanguageModelingModule(lightning.LightningModule):
    """Next-token training of a Mamba2LM with validation per source.

    source_weights maps each source to its share in the run, in the order of Batch.source;
    val/loss is the mean nll per token weighted by it. Where the mixture changes in stages the
    share is the mean over the run, so that the points of a curve compare.
    """

    skipped_steps: Tensor

    def __init__(
        self,
        model: Mamba2LM,
        optimizer: AdamW,
        schedule: Schedule,
        source_weights: Mapping[str, float],
        objective: Objective,
        *,
        tokens_per_step: int,
        epoch_tokens: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.source_weights = dict(source_weights)
        self.val_nll = nn.ModuleList(TokenNll() for _ in source_weights)
        # Both are in the state dict, so that they go on counting after a resume.
        self.seen = SourceCounts(list(source_weights), epoch_tokens or {})
        self.register_buffer("skipped_steps", torch.zeros((), dtype=torch.int64))
        self._skipped_in_a_row = 0
        self._optimizer = optimizer
        self._schedule = schedule
        self._objective = objective
        self._tokens_per_step = tokens_per_step
        self._grad_norm = torch.tensor(0.0)

    def configure_model(self) -> None:
        """Shard the model where the strategy does; Lightning calls it before each fit."""
        if isinstance(strategy := self.trainer.strategy, ShardedStrategy):
            strategy.shard(self.model)

    def configure_optimizers(self) -> Optimizer:
        """Return AdamW with its decay and no-decay groups."""
        return self._optimizer.build(self.model)

    def training_step(self, batch: Sequence[Batch], batch_idx: int) -> None:
        """Take one optimiser step over the micro-batches of this rank.

        Raises:
            TrainingError: when the gradient norm is not finite and no loss scaler is there to skip
                the step, or it has skipped too many; the weights are left as they were.
        """
        counts = self._global_sum(self.seen.of(batch))
        self.seen.add(counts)
        step_tokens = counts[0].sum()
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        self._set_learning_rates(optimizer.optimizer)
        nll_sum = torch.zeros((), device=self.device)

        def closure() -> Tensor:
            nonlocal nll_sum
            optimizer.zero_grad(set_to_none=True)
            nll_sum = self._backward(batch, step_tokens)
            return nll_sum

        optimizer.step(closure=closure)
        self._log_step(optimizer.optimizer, self._global_sum(nll_sum) / step_tokens)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the global gradient norm: runs after a loss scaler has unscaled the gradients.

        The norm is that of the gradients averaged over ranks, so all ranks decide alike.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._grad_norm = nn.utils.clip_grad_norm_(parameters, self._objective.max_grad_norm)
        if torch.isfinite(self._grad_norm):
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        self.skipped_steps += 1
        has_scaler = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not has_scaler or self._skipped_in_a_row >= self._objective.max_skipped_steps:
            raise TrainingError(
                f"the gradient norm of step {self.global_step} is {float(self._grad_norm)} "
                f"({self._skipped_in_a_row} such steps in a row): lower optimizer.lr, lengthen "
                "schedule.warmup_ratio, or train in 32-true"
            )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add the batch to the totals of its source (one loader per source)."""
        with torch.no_grad():
            nll_sum = self._nll_sum(batch)
        totals = self._val_totals(dataloader_idx)
        totals.update(nll_sum, (batch.targets >= 0).sum(), batch.num_bytes.sum())

    def on_validation_epoch_end(self) -> None:
        """Log nll, perplexity and bits per byte of each source, and val/loss."""
        loss = 0.0
        for index, (name, weight) in enumerate(self.source_weights.items()):
            totals = self._val_totals(index)
            values = totals.compute()
            totals.reset()
            loss += weight * values["nll"] if weight else 0.0
            figures = {f"val/{name}/{key}": value for key, value in values.items()}
            # The totals are synchronised already; Lightning warns unless it may average again.
            self.log_dict(figures, sync_dist=True)
        self.log("val/loss", loss, prog_bar=True, sync_dist=True)
        self.log("step", float(self.global_step), sync_dist=True)

    def _val_totals(self, source: int) -> TokenNll:
        totals = self.val_nll[source]
        assert isinstance(totals, TokenNll)
        return totals

    def _backward(self, batch: Sequence[Batch], step_tokens: Tensor) -> Tensor:
        """Accumulate gradients of the mean nll over all ranks; return the sum of this rank."""
        nll_sum = torch.zeros((), device=self.device)
        # DDP averages gradients over ranks; the loss is a sum over ranks.
        scale = self.trainer.world_size / step_tokens
        for position, micro_batch in enumerate(batch):
            with self._gradient_sync(is_last=position == len(batch) - 1):
                micro_sum = self._nll_sum(micro_batch)
                self.manual_backward(micro_sum * scale)
            nll_sum += micro_sum.detach()
        return nll_sum

    def _nll_sum(self, batch: Batch) -> Tensor:
        hidden, _ = self.model.hidden(batch.input_ids, seq_idx=batch.seq_idx)
        return linear_cross_entropy(
            hidden.flatten(0, 1), self.model.head_weight, batch.targets.flatten()
        )

    def _gradient_sync(self, *, is_last: bool) -> AbstractContextManager[None]:
        strategy = self.trainer.strategy
        if is_last or not isinstance(strategy, ParallelStrategy):
            return nullcontext()
        block: Callable[[], AbstractContextManager[None]] = strategy.block_backward_sync
        return block()

    def _set_learning_rates(self, optimizer: Optimizer) -> None:
        """Set the rate of the schedule at the positions consumed when this step ends."""
        tokens = (self.global_step + 1) * self._tokens_per_step
        for group in optimizer.param_groups:
            group["lr"] = self._optimizer.lr * self._schedule.factor(tokens)

    def _global_sum(self, value: Tensor) -> Tensor:
        reduced = self.trainer.strategy.reduce(value.clone(), reduce_op="sum")
        assert isinstance(reduced, Tensor)
        return reduced

    def _log_step(self, optimizer: Optimizer, loss: Tensor) -> None:
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/grad_norm", self._grad_norm)
        self.log("train/skipped_steps", self.skipped_steps.float())
        for group in optimizer.param_groups:
            self.log(f"train/lr/{group['name']}", group["lr"])
        for name, value in self.seen.curves().items():
            self.log(name, value)
        # Curves count finished steps; Lightning would count from 0.
        self.log("step", float(self.global_step))


def check_vocabulary(model_vocab_size: int, data_vocab_size: int) -> None:
    """Raise ConfigError if the stores hold token ids that the model has no embedding for."""
    if data_vocab_size > model_vocab_size:
        raise ConfigError(
            f"model.config.vocab_size is {model_vocab_size}, but the stores of data.sources use a "
            f"tokenizer of {data_vocab_size} ids: take a model of at least that vocabulary, or "
            "prepare the stores with the model's tokenizer"
        )
