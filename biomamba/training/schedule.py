"""Learning-rate schedules: pure functions from tokens seen to a factor of the peak rate.

A function of tokens, not of steps or calls, needs no state in the checkpoint and keeps its shape
when the batch size changes. Where total_tokens is None, the program fills in the length of the run,
which epochs may decide.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from biomamba.runtime.numbers import check_number, check_whole


class Schedule(Protocol):
    """Maps the tokens seen to a factor of the peak learning rate."""

    def factor(self, tokens: int) -> float:
        """Return the factor, 0 to 1, when `tokens` have been seen."""
        ...


def _check_ratios(**ratios: float) -> None:
    for name, ratio in ratios.items():
        check_number(name, ratio, at_least=0, at_most=1)


def _check_total(total_tokens: int | None) -> None:
    check_whole("total_tokens", total_tokens, optional=True)


def _progress(tokens: int, total_tokens: int | None) -> float:
    assert total_tokens is not None, "the length of the run was not filled in"
    return tokens / total_tokens


def _warmup(progress: float, warmup_ratio: float) -> float:
    return min(1.0, progress / warmup_ratio) if warmup_ratio else 1.0


@dataclass(frozen=True)
class Constant:
    """Linear warm-up over warmup_ratio of total_tokens, then the peak rate."""

    total_tokens: int | None
    warmup_ratio: float = 0.0

    def __post_init__(self) -> None:
        _check_total(self.total_tokens)
        _check_ratios(warmup_ratio=self.warmup_ratio)

    def factor(self, tokens: int) -> float:
        """Return the factor of the peak rate."""
        return _warmup(_progress(tokens, self.total_tokens), self.warmup_ratio)


@dataclass(frozen=True)
class WarmupDecay:
    """Linear warm-up, a flat part, and a decay to min_lr_ratio over the last decay_ratio.

    With decay_ratio = 1 - warmup_ratio there is no flat part (the usual cosine or linear
    schedule); with less it is warmup-stable-decay.
    Source: the released training code of arXiv 2408.02600 (LeoYML/BioMamba@e61db22): 10 % warm-up,
    65 % flat, 25 % cosine to 0.1 of the peak.
    """

    total_tokens: int | None
    warmup_ratio: float
    decay_ratio: float
    min_lr_ratio: float
    shape: str = "cosine"

    def __post_init__(self) -> None:
        _check_total(self.total_tokens)
        _check_ratios(
            warmup_ratio=self.warmup_ratio,
            decay_ratio=self.decay_ratio,
            min_lr_ratio=self.min_lr_ratio,
        )
        if self.warmup_ratio + self.decay_ratio > 1 + 1e-12:
            raise ValueError(
                f"warmup_ratio ({self.warmup_ratio}) and decay_ratio ({self.decay_ratio}) "
                "must not add up to more than 1"
            )
        if self.shape not in {"cosine", "linear"}:
            raise ValueError(f"shape must be cosine or linear, got {self.shape!r}")

    def factor(self, tokens: int) -> float:
        """Return the factor of the peak rate; min_lr_ratio from total_tokens on."""
        progress = min(1.0, _progress(tokens, self.total_tokens))
        decay_start = 1 - self.decay_ratio
        if progress <= decay_start or not self.decay_ratio:
            return _warmup(progress, self.warmup_ratio)
        done = (progress - decay_start) / self.decay_ratio
        left = (1 + math.cos(math.pi * done)) / 2 if self.shape == "cosine" else 1 - done
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * left
