"""AdamW with weight decay on matrices only."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from biomamba.model.mamba2 import no_decay_parameter_names


@dataclass(frozen=True)
class AdamW:
    """Settings of AdamW; lr is the peak rate that the schedule scales.

    Deviation: the released code of arXiv 2408.02600 decays every parameter; here A_log, D,
    dt_bias, norms and biases are not decayed, as mamba_ssm marks them.
    """

    lr: float
    weight_decay: float
    betas: Sequence[float] = (0.9, 0.95)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, got {self.betas}")

    def build(self, model: nn.Module) -> torch.optim.AdamW:
        """Return the optimiser with the groups `decay` and `no_decay`.

        Raises:
            TypeError: if a trainable parameter is not fp32 (master weights always are).
        """
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        other = {n: p.dtype for n, p in trainable.items() if p.dtype != torch.float32}
        if other:
            raise TypeError(f"master weights must be float32, got {other}")
        undecayed = no_decay_parameter_names(model)
        groups = [
            {
                "name": "decay",
                "params": [p for n, p in trainable.items() if n not in undecayed],
                "weight_decay": self.weight_decay,
            },
            {
                "name": "no_decay",
                "params": [p for n, p in trainable.items() if n in undecayed],
                "weight_decay": 0.0,
            },
        ]
        first, second = self.betas
        return torch.optim.AdamW(groups, lr=self.lr, betas=(first, second), eps=self.eps)
