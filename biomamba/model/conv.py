"""The causal depthwise convolution with SiLU that precedes the scan.

A sum of d_conv shifted products with a hand-written backward: on a CPU several times faster than a
grouped conv1d, and a document boundary is a mask on each shift.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class CausalConv1d(nn.Module):
    """Convolve each channel with its own d_conv past inputs and apply SiLU.

    Parameters are named and shaped like those of `nn.Conv1d(channels, channels, d_conv,
    groups=channels)` and initialised like them.
    """

    def __init__(self, channels: int, d_conv: int) -> None:
        super().__init__()
        self.d_conv = d_conv
        self.weight = nn.Parameter(torch.empty(channels, 1, d_conv))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias uniformly within 1/sqrt(d_conv), as nn.Conv1d does."""
        bound = 1 / math.sqrt(self.d_conv)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self, x: Tensor, documents: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Convolve x (batch, length, channels) and return the result and the final conv state.

        `documents` (batch, length): taps do not reach into another document. `state` (None: zeros)
        belongs to the document at position 0.
        """
        past = self.d_conv - 1
        if state is None:
            inputs = F.pad(x, (0, 0, past, 0))
        else:
            inputs = torch.cat([state[:, :, 1:].transpose(1, 2).to(x.dtype), x], dim=1)
        masks = None if documents is None else _tap_masks(documents, past)
        weight = self.weight.squeeze(1).to(x.dtype).t()  # (d_conv, channels)
        bias = self.bias.to(x.dtype)
        y = _ShiftedProducts.apply(inputs, weight, bias, masks)  # type: ignore[no-untyped-call]
        return y, self._final_state(inputs, documents)

    def _final_state(self, inputs: Tensor, documents: Tensor | None) -> Tensor:
        kept = inputs[:, -self.d_conv :]
        if documents is not None:
            numbers = F.pad(documents, (self.d_conv - 1, 0))[:, -self.d_conv :]
            kept = kept * (numbers == documents[:, -1:]).unsqueeze(-1)
        return kept.transpose(1, 2)  # (batch, channels, d_conv)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve one further input x (batch, channels); return the result and the new state."""
        state = torch.cat([state[:, :, 1:].to(x.dtype), x.unsqueeze(-1)], dim=-1)
        weight, bias = self.weight.squeeze(1).to(x.dtype), self.bias.to(x.dtype)
        return F.silu((state * weight).sum(-1) + bias), state


def _tap_masks(documents: Tensor, past: int) -> list[Tensor]:
    """Return per tap but the last a mask (batch, length, 1): that input is of the same document."""
    length = documents.shape[1]
    numbers = F.pad(documents, (past, 0))  # what precedes position 0 is of document 0
    same = [numbers[:, tap : tap + length] == documents for tap in range(past)]
    return [mask.unsqueeze(-1) for mask in same]


class _ShiftedProducts(torch.autograd.Function):
    """silu(bias + sum over taps of weight[tap] * inputs shifted by tap)."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, masks: list[Tensor] | None
    ) -> Tensor:
        past = weight.shape[0] - 1
        length = inputs.shape[1] - past
        total = torch.addcmul(bias, inputs[:, past:], weight[past])  # (batch, length, channels)
        for tap in range(past):
            shifted = inputs[:, tap : tap + length]
            total.addcmul_(shifted if masks is None else shifted * masks[tap], weight[tap])
        ctx.save_for_backward(inputs, weight, total, *(masks or ()))
        return F.silu(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inputs, weight, total, *masks = ctx.saved_tensors
        past = weight.shape[0] - 1
        length = inputs.shape[1] - past
        grad = torch.ops.aten.silu_backward(grad_output, total)
        grad_inputs = torch.zeros_like(inputs)
        grad_weight = torch.empty_like(weight)
        for tap in range(past + 1):
            kept = grad * masks[tap] if masks and tap < past else grad
            grad_inputs[:, tap : tap + length].addcmul_(kept, weight[tap])
            grad_weight[tap] = (kept * inputs[:, tap : tap + length]).sum((0, 1))
        return grad_inputs, grad_weight, grad.sum((0, 1)), None
