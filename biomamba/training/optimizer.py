"""AdamW with weight decay on matrices only and, if asked for, rates that fall with depth."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from biomamba.model.language_model import no_decay_parameter_names
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_number

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
        """Return the optimiser with the groups `decay` and `no_decay`.

        With a layer_decay below 1 these hold what lies outside the layers, and each layer has two
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
