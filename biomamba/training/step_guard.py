"""Which steps are taken: no loss or gradient that is not finite ever reaches a weight.

The verdict is a pure function of figures that all ranks have in common, so all ranks skip the same
steps. A skipped step consumes its data; weights and optimizer state stay as they were.
"""

import json
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from biomamba.data.batches import Batch
from biomamba.runtime.numbers import check_number, check_whole

# -------------------------------------------------------------------------------------------------
# Sums and the norm of gradients, without a trace of the order in which they were added.
#
# A sum of float32 numbers depends on its order, so on how the rows of a step are dealt out to
# micro-batches and ranks. In float64 the difference falls below half a bit of float32: a run on
# another number of ranks then computes the same gradients, also where bfloat16 products would carry
# a difference of one bit on (a weight that rounds to another bfloat16 changes by 0.4 %).
# -------------------------------------------------------------------------------------------------

SUM_DTYPES = {"float32": torch.float32, "float64": torch.float64}
Reduce = Callable[[Tensor], Tensor]
# Sums that are sent between ranks together: 128 MB, and as much again for a copy of them.
_ELEMENTS_AT_ONCE = 2**24


class GradientSums:
    """Gradients of several backward passes and ranks, added up in float64.

    Takes 8 bytes per trained parameter beside the gradients of one pass.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        sizes = [p.numel() for p in self._parameters]
        device = self._parameters[0].device
        self._flat = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        self._sums = torch.split(self._flat, sizes)
        self._has_gradient = [False for _ in sizes]

    def clear(self) -> None:
        """Start a step."""
        self._flat.zero_()
        self._has_gradient = [False for _ in self._sums]

    def take(self) -> None:
        """Add the gradients of a backward pass and remove them from the parameters."""
        for number, parameter in enumerate(self._parameters):
            if parameter.grad is not None:
                self._sums[number].add_(parameter.grad.flatten())
                parameter.grad = None
                self._has_gradient[number] = True

    def give(self, reduce: Reduce) -> None:
        """Make the sums over all ranks the gradients of the parameters.

        `reduce` sums a tensor over the ranks. A parameter that no pass reached, on all ranks
        alike, stays without a gradient.
        """
        for part in torch.split(self._flat, _ELEMENTS_AT_ONCE):
            part.copy_(reduce(part))
        found = zip(self._parameters, self._sums, self._has_gradient, strict=True)
        for parameter, total, has_gradient in found:
            if has_gradient:
                parameter.grad = total.view_as(parameter).to(parameter.dtype)


def global_norm(gradients: Sequence[Tensor], reduce: Reduce) -> Tensor:
    """Return the norm of all gradients as float32, whole or dealt out in shards.

    `reduce` sums a tensor over the ranks; it is used for shards only.
    """
    if not gradients:
        return torch.tensor(0.0)
    norms = [torch.linalg.vector_norm(own_part(g), dtype=torch.float64) for g in gradients]
    square = torch.stack(norms).square().sum()
    if isinstance(gradients[0], DTensor):
        square = reduce(square)
    return square.sqrt().float()


def clip(gradients: Sequence[Tensor], norm: Tensor, max_norm: float) -> None:
    """Scale gradients in place so that their norm is at most max_norm.

    A norm that is not finite makes them nan, as torch's clip_grad_norm_ does.
    """
    factor = (max_norm / (norm.double() + 1e-6)).clamp(max=1.0).float()
    for gradient in gradients:
        own_part(gradient).mul_(factor.to(gradient.device))


def own_part(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor; the storage is shared."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


# -------------------------------------------------------------------------------------------------
# Which steps are taken: no loss or gradient that is not finite ever reaches a weight.
# -------------------------------------------------------------------------------------------------

# The median absolute deviation of a normal distribution times this is its standard deviation.
_MAD_TO_SIGMA = 1.4826
# Equal values have no spread: a spike must at least leave their median by this share of it.
_MIN_SPREAD_RATIO = 0.01


@dataclass(frozen=True)
class SpikeDetection:
    """When a step stands out from those before it.

    Its loss or gradient norm is a spike if it is more than `deviations` standard deviations
    (from the median absolute deviation) above the median of the last window_steps finite ones.
    Spikes count in the window too, so that a lasting change stops being one.

    Attributes:
        window_steps: Steps to compare with.
        min_steps: There is no spike before so many are known.
        deviations: How far out a spike is.
        skip: Leave such steps out; else they are only counted and written down.
    """

    window_steps: int = 128
    min_steps: int = 32
    deviations: float = 10.0
    skip: bool = False

    def __post_init__(self) -> None:
        check_whole("window_steps", self.window_steps, at_least=2)
        check_whole("min_steps", self.min_steps, at_least=2, at_most=self.window_steps)
        check_number("deviations", self.deviations, above=0)


@dataclass(frozen=True)
class StepFigures:
    """What all ranks know of a step.

    Attributes:
        loss: Mean nll per token over all ranks.
        grad_norm: Global norm before clipping.
        num_faulty_ranks: Ranks whose own loss or gradient is not finite.
    """

    loss: float
    grad_norm: float
    num_faulty_ranks: int

    @property
    def is_finite(self) -> bool:
        """Whether all figures of all ranks are finite."""
        values = (self.loss, self.grad_norm)
        return self.num_faulty_ranks == 0 and all(math.isfinite(value) for value in values)


@dataclass(frozen=True)
class Verdict:
    """What is done with a step.

    Attributes:
        reason: What is wrong with it; None if nothing is.
        is_taken: Whether the weights are updated.
    """

    reason: str | None = None
    is_taken: bool = True


class StepGuard:
    """Judges one step after the other; its state belongs into the checkpoint.

    Attributes:
        skipped_steps: Steps that were not taken.
        skipped_in_a_row: Those since the last one that was.
        spikes: Steps that stood out, taken or not.
    """

    def __init__(self, spikes: SpikeDetection | None = None) -> None:
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self.spikes = 0
        self._detection = spikes
        size = spikes.window_steps if spikes else 0
        self._losses: deque[float] = deque(maxlen=size)
        self._grad_norms: deque[float] = deque(maxlen=size)

    def judge(self, figures: StepFigures) -> Verdict:
        """Decide about the next step."""
        verdict = self._verdict(figures)
        self.skipped_in_a_row = 0 if verdict.is_taken else self.skipped_in_a_row + 1
        self.skipped_steps += not verdict.is_taken
        return verdict

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self.skipped_in_a_row,
            "spikes": self.spikes,
            "losses": list(self._losses),
            "grad_norms": list(self._grad_norms),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a checkpoint was made; a shorter window keeps the newest steps."""
        self.skipped_steps = state["skipped_steps"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.spikes = state["spikes"]
        self._losses = deque(state["losses"], maxlen=self._losses.maxlen)
        self._grad_norms = deque(state["grad_norms"], maxlen=self._grad_norms.maxlen)

    def _verdict(self, figures: StepFigures) -> Verdict:
        if not figures.is_finite:
            return Verdict("not finite", is_taken=False)
        if self._detection is None:
            return Verdict()
        watched = (
            ("loss", figures.loss, self._losses),
            ("gradient norm", figures.grad_norm, self._grad_norms),
        )
        found = []
        for name, value, past in watched:
            if _is_spike(value, past, self._detection):
                found.append(name)
            past.append(value)
        if not found:
            return Verdict()
        self.spikes += 1
        return Verdict(f"spike of the {' and the '.join(found)}", not self._detection.skip)


@dataclass(frozen=True)
class StepRecord:
    """A step that was skipped or stood out, as one rank saw it; no text.

    Attributes:
        step: Steps of the run before it.
        figures: What all ranks know.
        verdict: What was done.
        nll: Sum of nll over the rows of this rank.
        batch: The micro-batches of this rank.
    """

    step: int
    figures: StepFigures
    verdict: Verdict
    nll: float
    batch: Sequence[Batch]

    def append_to(self, folder: Path, rank: int) -> Path:
        """Add a line to the file of the rank: rows, and sources and keys of their documents.

        A step that is made again after a resume has a line again.
        """
        documents = sorted(
            {
                (int(p["source"]), f"{int(p['key']):016x}")
                for part in self.batch
                for p in part.pieces
            }
        )
        line = {
            "step": self.step,
            "reason": self.verdict.reason,
            "is_taken": self.verdict.is_taken,
            "loss": _plain(self.figures.loss),
            "grad_norm": _plain(self.figures.grad_norm),
            "num_faulty_ranks": self.figures.num_faulty_ranks,
            "nll_of_rank": _plain(self.nll),
            "row_ids": [row for part in self.batch for row in part.row_ids.tolist()],
            "documents": [{"source": source, "key": key} for source, key in documents],
        }
        path = folder / f"rank_{rank:05d}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line, allow_nan=False)}\n")
        return path


def _plain(value: float) -> float | str:
    """JSON has no infinity and no nan: they become the words."""
    return value if math.isfinite(value) else str(value)


def _is_spike(value: float, past: Collection[float], detection: SpikeDetection) -> bool:
    if len(past) < detection.min_steps:
        return False
    middle = median(past)
    spread = _MAD_TO_SIGMA * median(abs(earlier - middle) for earlier in past)
    spread = max(spread, _MIN_SPREAD_RATIO * abs(middle))
    return value > middle + detection.deviations * spread
