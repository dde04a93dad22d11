"""AdamW with weight decay on matrices and layer-wise rates; learning-rate schedules by tokens."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from biomamba.model.language_model import no_decay_parameter_names
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_number, check_whole

# -------------------------------------------------------------------------------------------------
# Learning-rate schedules: pure functions from tokens seen to a factor of the peak rate.
#
# A function of tokens, not of steps or calls, needs no state in the checkpoint and keeps its shape
# when the batch size changes. Where total_tokens is None, the program fills in the length of the
# run, which epochs may decide.
# -------------------------------------------------------------------------------------------------


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


# -------------------------------------------------------------------------------------------------
# AdamW with weight decay on matrices only and, if asked for, rates that fall with depth.
# -------------------------------------------------------------------------------------------------

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_OUTSIDE = -1


@dataclass(frozen=True)
class AdamW:
    """Settings of AdamW; lr is the peak rate that the schedule scales.

    The rate of layer i of n is multiplied by layer_decay^(n - 1 - i), so 1 is off; embedding, last
    norm and head have the whole rate.
    Source: LeoYML/BioMamba@e61db22, the training code of arXiv 2408.02600, for layer_decay.
    Deviation: that code decays every parameter; here A_log, D, dt_bias, norms and biases are not
    decayed, as mamba_ssm marks them.
    """

    lr: float
    weight_decay: float
    betas: Sequence[float] = (0.9, 0.95)
    eps: float = 1e-8
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        check_number("lr", self.lr, above=0)
        check_number("weight_decay", self.weight_decay, at_least=0)
        if len(self.betas) != 2:
            raise ConfigError(f"betas must be two numbers, found {list(self.betas)}")
        for index, beta in enumerate(self.betas):
            check_number(f"betas[{index}]", beta, at_least=0, below=1)
        check_number("eps", self.eps, above=0)
        check_number("layer_decay", self.layer_decay, above=0, at_most=1)

    def build(self, model: nn.Module) -> torch.optim.AdamW:
        """Return the optimizer with the groups `decay` and `no_decay`.

        With a layer_decay below 1 these hold what is outside the layers, and each layer has two
        of its own: `layer_07/decay` and `layer_07/no_decay`. `lr_factor` is the group's part of
        the rate.

        Raises:
            TypeError: if a trainable parameter is not fp32 (master weights always are).
        """
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        other = {n: p.dtype for n, p in trainable.items() if p.dtype != torch.float32}
        if other:
            raise TypeError(f"master weights must be float32, got {other}")
        undecayed = no_decay_parameter_names(model)
        num_layers = 1 + max(_layer_of(name) for name, _ in model.named_parameters())
        groups: dict[tuple[int, str], dict[str, Any]] = {}
        for name, parameter in trainable.items():
            layer = _layer_of(name) if self.layer_decay < 1 else _OUTSIDE
            kind = "no_decay" if name in undecayed else "decay"
            group = groups.setdefault((layer, kind), self._group(layer, kind, num_layers))
            group["params"].append(parameter)
        first, second = self.betas
        ordered = [groups[key] for key in sorted(groups)]
        optimizer = torch.optim.AdamW(
            ordered, lr=self.lr, betas=(first, second), eps=self.eps, fused=True
        )
        # The fused kernel could divide by a loss scale itself, and a loss scaler would leave it to
        # that; but gradients are clipped, and so must be unscaled, before the step.
        optimizer._step_supports_amp_scaling = False
        return optimizer

    def _group(self, layer: int, kind: str, num_layers: int) -> dict[str, Any]:
        is_outside = layer == _OUTSIDE
        return {
            "name": kind if is_outside else f"layer_{layer:02d}/{kind}",
            "params": [],
            "lr_factor": 1.0 if is_outside else self.layer_decay ** (num_layers - 1 - layer),
            "weight_decay": self.weight_decay if kind == "decay" else 0.0,
        }


def rates_to_log(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the rates outside the layers, and those of the first, a middle and the last layer."""
    rates = {group["name"]: group["lr"] for group in groups}
    shown = {name: rate for name, rate in rates.items() if "/" not in name}
    layers = list({name.split("/")[0]: rate for name, rate in rates.items() if "/" in name}.items())
    return shown | {n: rate for i in (0, len(layers) // 2, -1) for n, rate in layers[i:][:1]}


def _layer_of(name: str) -> int:
    match = _LAYER.search(name)
    return int(match[1]) if match else _OUTSIDE
