"""The LightningModule of every stage: the objective, one optimizer step per batch, token counts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from biomamba.data.batches import Batch
from biomamba.metrics.perplexity import TokenNll
from biomamba.model.language_model import MambaLM
from biomamba.model.loss import LOSS_KERNELS, check_loss_kernel, loss_of
from biomamba.model.segments import Segments, hidden_by_segment
from biomamba.runtime.errors import ConfigError, TrainingError
from biomamba.runtime.numbers import check_number, check_whole
from biomamba.training.callbacks.checkpoint import way_back
from biomamba.training.optimizer import AdamW, Schedule, rates_to_log
from biomamba.training.step_guard import (
    SUM_DTYPES,
    GradientSums,
    SpikeDetection,
    StepFigures,
    StepGuard,
    StepRecord,
    Verdict,
    clip,
    global_norm,
)
from biomamba.training.strategy import ShardedStrategy

# -------------------------------------------------------------------------------------------------
# What a step of training minimizes, and within which limits.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objective:
    """Limits of a step.

    max_grad_norm clips the global gradient norm. A step whose loss or gradient is not finite on any
    rank is skipped on all (a loss scaler then halves its scale, too); after max_skipped_steps of
    them in a row the run stops. spikes, if given, finds the steps that stand out. With
    segment_tokens a row is trained in segments of so many positions, by truncated back-propagation
    through time (segment_state: see Segments): memory does not grow with the row. gradient_sums is
    the precision in which gradients of micro-batches and ranks are added: in float64 (8 bytes more
    per parameter) the result does not depend on the number of ranks, also in bf16-mixed.
    loss_kernel computes the loss: chunked, anywhere, or liger, by a kernel for NVIDIA GPUs.
    """

    max_grad_norm: float = 1.0
    max_skipped_steps: int = 20
    spikes: SpikeDetection | None = None
    segment_tokens: int | None = None
    segment_state: str = "reset"
    gradient_sums: str = "float32"
    loss_kernel: str = "chunked"

    def __post_init__(self) -> None:
        check_number("max_grad_norm", self.max_grad_norm, above=0)
        check_whole("max_skipped_steps", self.max_skipped_steps)
        if self.gradient_sums not in SUM_DTYPES:
            names = " or ".join(SUM_DTYPES)
            raise ValueError(f"gradient_sums must be {names}, got {self.gradient_sums!r}")
        if self.loss_kernel not in LOSS_KERNELS:
            names = " or ".join(LOSS_KERNELS)
            raise ValueError(f"loss_kernel must be {names}, got {self.loss_kernel!r}")
        Segments.of(self.segment_tokens, self.segment_state)


# -------------------------------------------------------------------------------------------------
# What a run has trained on, source by source.
# -------------------------------------------------------------------------------------------------


class SourceCounts(nn.Module):
    """Tokens and documents of each source over all ranks; part of the checkpoints of a run.

    Attributes:
        tokens: (sources,) int64; tokens that were scored.
        documents: (sources,) int64; documents that were started, again in every epoch.

    Args:
        names: The sources in the order of Batch.source.
        epoch_tokens: Tokens of one epoch of a source, where they are known.
    """

    tokens: Tensor
    documents: Tensor

    def __init__(self, names: Sequence[str], epoch_tokens: Mapping[str, int]) -> None:
        super().__init__()
        self._names = list(names)
        self._epoch_tokens = {name: tokens for name, tokens in epoch_tokens.items() if tokens}
        for kind in ("tokens", "documents"):
            self.register_buffer(kind, torch.zeros(len(names), dtype=torch.int64))

    def of(self, batch: Sequence[Batch]) -> Tensor:
        """Count the tokens and the documents of some micro-batches; (2, sources)."""
        counts = torch.stack([torch.zeros_like(self.tokens), torch.zeros_like(self.tokens)])
        for part in batch:
            counts[0].index_add_(0, part.source, (part.targets >= 0).sum(dim=1))
        pieces = np.concatenate([part.pieces for part in batch])
        begun = np.bincount(pieces["source"][pieces["start"] == 0], minlength=len(self._names))
        counts[1] = torch.from_numpy(begun)
        return counts

    def add(self, counts: Tensor) -> None:
        """Add the counts of a step, summed over all ranks."""
        self.tokens += counts[0]
        self.documents += counts[1]

    def curves(self) -> dict[str, Tensor]:
        """Return what to log: all tokens, the share of each source and its epochs if known."""
        total = self.tokens.sum()
        curves = {"data/tokens": total.double()}
        for name, tokens in zip(self._names, self.tokens, strict=True):
            curves[f"data/token_share/{name}"] = tokens / total
            if name in self._epoch_tokens:
                curves[f"data/epochs/{name}"] = tokens / self._epoch_tokens[name]
        return curves

    def realised(self) -> dict[str, dict[str, Any]]:
        """Return tokens, share, epochs (None if not known) and documents of each source."""
        total = max(1, int(self.tokens.sum()))
        found = zip(self._names, self.tokens.tolist(), self.documents.tolist(), strict=True)
        return {
            name: {
                "tokens": tokens,
                "share": tokens / total,
                "epochs": tokens / known if (known := self._epoch_tokens.get(name)) else None,
                "documents": documents,
            }
            for name, tokens, documents in found
        }


# -------------------------------------------------------------------------------------------------
# The LightningModule of every stage: one batch is one optimizer step.
#
# Manual optimization, because only then is a step the unit of everything: the loader yields the
# micro-batches of one step, the loss is divided by the true number of target tokens of all ranks,
# and a checkpoint never is between two micro-batches.
# -------------------------------------------------------------------------------------------------

_GUARD_KEY = "step_guard"


class LanguageModelingModule(lightning.LightningModule):
    """Next-token training of a MambaLM with validation per source.

    source_weights maps each source to its share in the run, in the order of Batch.source;
    val/loss is the mean nll per token weighted by it. Where the mixture changes in stages the
    share is the mean over the run, so that the points of a curve compare.
    """

    def __init__(
        self,
        model: MambaLM,
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
        # In the state dict, so that they continue counting after a resume.
        self.seen = SourceCounts(list(source_weights), epoch_tokens or {})
        self.guard = StepGuard(objective.spikes)
        self.is_step_taken = False
        self._optimizer = optimizer
        self._schedule = schedule
        self._objective = objective
        self._summed_loss = loss_of(objective.loss_kernel)
        self._tokens_per_step = tokens_per_step
        self._batch: Sequence[Batch] = []
        self._nll_sum_of_rank = self._divisor = torch.tensor(0.0)
        self._figures = StepFigures(0.0, 0.0, 0)
        self._sums: GradientSums | None = None

    def configure_model(self) -> None:
        """Shard the model where the strategy does; Lightning calls it before each fit."""
        strategy = self.trainer.strategy
        is_sharded = isinstance(strategy, ShardedStrategy)
        check_loss_kernel(self._objective.loss_kernel, strategy.root_device, is_sharded=is_sharded)
        if isinstance(strategy, ShardedStrategy):
            strategy.shard(self.model, SUM_DTYPES[self._objective.gradient_sums])

    def configure_optimizers(self) -> Optimizer:
        """Return AdamW with its decay and no-decay groups."""
        return self._optimizer.build(self.model)

    def training_step(self, batch: Sequence[Batch], batch_idx: int) -> None:
        """Take one optimizer step over the micro-batches of this rank.

        Raises:
            TrainingError: when too many steps in a row were skipped; the weights are left as they
                were.
        """
        counts = self._global_sum(self.seen.of(batch))
        self.seen.add(counts)
        self._batch, self._divisor = batch, self._divisor_of(batch, counts)
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        self._set_learning_rates(optimizer.optimizer)

        def closure() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            self._nll_sum_of_rank = self._backward(batch, self._divisor)
            return self._nll_sum_of_rank

        optimizer.step(closure=closure)
        self._log_step(optimizer.optimizer)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the global gradient norm, and drop the gradients of a step that is not taken.

        Runs after a loss scaler has unscaled the gradients. Without gradients AdamW changes
        neither a weight nor its state.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        grad_norm = global_norm(gradients, self._global_sum)
        clip(gradients, grad_norm, self._objective.max_grad_norm)
        self._figures = self._agreed_figures(grad_norm)
        verdict = self.guard.judge(self._figures)
        self.is_step_taken = verdict.is_taken
        if not verdict.is_taken:
            optimizer.zero_grad(set_to_none=True)
        if verdict.reason is not None:
            self._record(verdict)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the guard."""
        checkpoint[_GUARD_KEY] = self.guard.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue with the guard of the checkpoint."""
        self.guard.load_state_dict(checkpoint[_GUARD_KEY])

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add the batch to the totals of its source (one loader per source)."""
        with torch.no_grad():
            nll_sum = torch.stack(list(self._nll_sums(replace(batch, weights=None)))).sum()
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
            # The totals are synchronized already; Lightning warns unless it may average again.
            self.log_dict(figures, sync_dist=True)
        self.log("val/loss", loss, prog_bar=True, sync_dist=True)
        self.log("step", float(self.global_step), sync_dist=True)

    def _val_totals(self, source: int) -> TokenNll:
        totals = self.val_nll[source]
        assert isinstance(totals, TokenNll)
        return totals

    def _divisor_of(self, batch: Sequence[Batch], counts: Tensor) -> Tensor:
        """Return the targets of a step over all ranks, or the sum of their weights.

        The batches of all ranks have weights, or none; the counts are those of all ranks.
        """
        weights = [
            part.weights.sum(dtype=torch.float64) for part in batch if part.weights is not None
        ]
        return self._global_sum(torch.stack(weights).sum()).float() if weights else counts[0].sum()

    def _backward(self, batch: Sequence[Batch], divisor: Tensor) -> Tensor:
        """Accumulate gradients of the mean nll over all ranks; return the sum of this rank."""
        nll_sum = torch.zeros((), device=self.device)
        sums = self._gradient_sums()
        # DDP and FSDP2 average gradients over ranks; the loss is a sum over ranks.
        scale = (1 if sums else self.trainer.world_size) / divisor
        for position, micro_batch in enumerate(batch, start=1):
            num_segments = len(self._segments(micro_batch).cut(micro_batch.input_ids.shape[1]))
            for number, part in enumerate(self._nll_sums(micro_batch), start=1):
                is_last = position == len(batch) and number == num_segments
                with self._gradient_sync(is_last=is_last and not sums):
                    self.manual_backward(part * scale)
                if sums:
                    sums.take()
                nll_sum += part.detach()
        if sums:
            sums.give(self._global_sum)
        return nll_sum

    def _gradient_sums(self) -> GradientSums | None:
        """Return empty sums; None where torch or the strategy adds in the precision asked for."""
        is_sharded = isinstance(self.trainer.strategy, ShardedStrategy)
        if self._objective.gradient_sums == "float32" or is_sharded:
            return None
        self._sums = self._sums or GradientSums(self.model.parameters())
        self._sums.clear()
        return self._sums

    def _nll_sums(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the weighted sum of nll of each segment of the rows; one if they are not cut."""
        segments = self._segments(batch)
        parts = hidden_by_segment(self.model, batch.input_ids, batch.seq_idx, segments)
        for here, hidden in parts:
            yield self._summed_loss(
                hidden.flatten(0, 1),
                self.model.head_weight,
                batch.targets[:, here].flatten(),
                target_weights=None if batch.weights is None else batch.weights[:, here].flatten(),
            )

    def _segments(self, batch: Batch) -> Segments:
        objective = self._objective
        asked = Segments.of(objective.segment_tokens, objective.segment_state)
        return asked or Segments(batch.input_ids.shape[1])

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
            rate = self._optimizer.lr * group["lr_factor"]
            group["lr"] = rate * self._schedule.factor(tokens)

    def _global_sum(self, value: Tensor) -> Tensor:
        reduced = self.trainer.strategy.reduce(value.clone(), reduce_op="sum")
        assert isinstance(reduced, Tensor)
        return reduced

    def _agreed_figures(self, grad_norm: Tensor) -> StepFigures:
        """Combine the figures of all ranks in one all-reduce: all ranks get the same ones."""
        nll_sum = self._nll_sum_of_rank
        is_faulty = ~(torch.isfinite(nll_sum) & torch.isfinite(grad_norm))
        total = self._global_sum(torch.stack([nll_sum, grad_norm, is_faulty.float()]))
        loss = total[0] / self._divisor
        values: list[float] = torch.stack([loss, total[1], total[2]]).tolist()
        return StepFigures(values[0], values[1] / self.trainer.world_size, round(values[2]))

    def _record(self, verdict: Verdict) -> None:
        """Write down a step that was skipped or stood out; stop after too many skipped ones.

        Raises:
            TrainingError: on all ranks alike.
        """
        figures, in_a_row = self._figures, self.guard.skipped_in_a_row
        nll = float(self._nll_sum_of_rank)
        record = StepRecord(self.global_step, figures, verdict, nll, self._batch)
        folder = Path(self.trainer.default_root_dir) / "unusual_steps"
        path = record.append_to(folder, self.global_rank)
        if in_a_row >= self._objective.max_skipped_steps:
            raise TrainingError(
                f"step {self.global_step} was skipped ({verdict.reason}: loss {figures.loss:.4g}, "
                f"gradient norm {figures.grad_norm:.4g}), {in_a_row} such steps in a row: look at "
                f"the rows in {path}, lower optimizer.lr, lengthen schedule.warmup_ratio, or train "
                f"in 32-true; {way_back(self.trainer, self.global_step + 1 - in_a_row)}"
            )

    def _log_step(self, optimizer: Optimizer) -> None:
        self.log("train/loss", self._figures.loss, prog_bar=True)
        self.log("train/grad_norm", self._figures.grad_norm)
        self.log("train/skipped_steps", float(self.guard.skipped_steps))
        self.log("train/spikes", float(self.guard.spikes))
        for name, rate in rates_to_log(optimizer.param_groups).items():
            self.log(f"train/lr/{name}", rate)
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
