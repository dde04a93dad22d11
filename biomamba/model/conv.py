"""The causal depthwise convolution with SiLU that precedes the scan.

A sum of d_conv shifted products with a hand-written backward, tile by tile: on a CPU several times
faster than a grouped conv1d, and a document boundary is a mask on each shift.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from biomamba.model.ssd import ConvolvingBackend, state_dtype

# Elements of one tile on a CPU: 512 KiB in float32; the few arrays in use then fit the L2 cache.
_TILE_ELEMENTS = 2**17


class CausalConv1d(nn.Module):
    """Convolve each channel with its own d_conv past inputs and apply SiLU.

    Parameters are named and shaped like those of `nn.Conv1d(channels, channels, d_conv,
    groups=channels)` and initialized like them. A backend with a kernel for it does the work.
    """

    def __init__(self, channels: int, d_conv: int, backend: object = None) -> None:
        super().__init__()
        self.d_conv = d_conv
        self._kernel = backend if isinstance(backend, ConvolvingBackend) else None
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

        `documents` (batch, length) as of `document_numbers`: taps do not reach into another one.
        `state` (None: zeros) belongs to the document at position 0.
        """
        past = None if state is None else state[:, :, 1:].mT.to(x.dtype)
        weight, y = self.weight.squeeze(1), None
        if self._kernel is not None:
            y = self._kernel.convolve(x, weight, self.bias, documents, past)
        if y is None:
            y = _ShiftedProducts.apply(  # type: ignore[no-untyped-call]
                x, past, weight, self.bias, documents
            )
        return y, self.final_state(x, past, documents)

    def final_state(self, x: Tensor, past: Tensor | None, documents: Tensor | None) -> Tensor:
        """Return the conv state (batch, channels, d_conv) after x, of its last document only."""
        kept = x[:, -self.d_conv :]
        missing = self.d_conv - kept.shape[1]
        if missing and past is not None:
            kept = torch.cat([past[:, -missing:], kept], dim=1)
        elif missing:
            kept = F.pad(kept, (0, 0, missing, 0))
        if documents is not None:
            numbers = F.pad(documents, (missing, 0))[:, -self.d_conv :]
            kept = kept * (numbers == documents[:, -1:]).unsqueeze(-1)
        return kept.mT

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve one further input x (batch, channels); return the result and the new state."""
        state = torch.cat([state[:, :, 1:].to(x.dtype), x.unsqueeze(-1)], dim=-1)
        weight, bias = self.weight.squeeze(1).to(x.dtype), self.bias.to(x.dtype)
        return F.silu((state * weight).sum(-1) + bias), state


class _ShiftedProducts(torch.autograd.Function):
    """silu(bias + sum over taps of weight[:, tap] * x shifted), with `past` before position 0.

    Sums run in float32 (float64). The backward makes them again rather than reading them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        past: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        documents: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, past, weight, bias, documents)
        taps = weight.t().to(state_dtype(x)).contiguous()  # (d_conv, channels)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for tile in _tiles(x):
            inputs = _inputs(x, past, tile, len(taps))
            sums = _sums(inputs, taps, bias, _masks(documents, tile, len(taps)))
            y[tile.rows, tile.start : tile.stop] = F.silu(sums)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, past, weight, bias, documents = ctx.saved_tensors
        taps = weight.t().to(state_dtype(x)).contiguous()
        halo = len(taps) - 1
        g_x = x.new_zeros(len(x), halo + x.shape[1], x.shape[2])  # with what precedes position 0
        g_taps, g_bias = torch.zeros_like(taps), torch.zeros_like(taps[0])
        for tile in _tiles(x):
            inputs = _inputs(x, past, tile, len(taps))
            masks = _masks(documents, tile, len(taps))
            sums = _sums(inputs, taps, bias, masks)
            grad = grad_y[tile.rows, tile.start : tile.stop].to(sums.dtype)
            grad = torch.ops.aten.silu_backward(grad, sums)
            g_inputs = torch.zeros_like(inputs)
            for tap, mask in enumerate(masks):
                kept = grad if mask is None else grad * mask
                g_inputs[:, tap : tap + grad.shape[1]].addcmul_(kept, taps[tap])
                g_taps[tap] += (kept * inputs[:, tap : tap + grad.shape[1]]).sum((0, 1))
            g_bias += grad.sum((0, 1))
            g_x[tile.rows, tile.start : tile.stop + halo] += g_inputs
        g_past = None if past is None else g_x[:, :halo]
        return g_x[:, halo:], g_past, g_taps.t().to(weight.dtype), g_bias.to(bias.dtype), None


class _Tile(NamedTuple):
    rows: slice
    start: int
    stop: int


def _tiles(x: Tensor) -> list[_Tile]:
    """Cut (batch, length, channels) into parts that fit the cache of a CPU; elsewhere one part."""
    batch, length, channels = x.shape
    if x.device.type != "cpu":
        return [_Tile(slice(None), 0, length)]
    size = max(64, _TILE_ELEMENTS // channels)
    starts = range(0, length, size)
    return [
        _Tile(slice(row, row + 1), start, min(start + size, length))
        for row in range(batch)
        for start in starts
    ]


def _inputs(x: Tensor, past: Tensor | None, tile: _Tile, d_conv: int) -> Tensor:
    """Return a tile of x with the d_conv - 1 inputs before it, in float32."""
    halo, wide = d_conv - 1, state_dtype(x)
    if tile.start:
        return x[tile.rows, tile.start - halo : tile.stop].to(wide)
    part = x[tile.rows, : tile.stop].to(wide)
    if past is None:
        return F.pad(part, (0, 0, halo, 0))
    return torch.cat([past[tile.rows].to(wide), part], dim=1)


def _masks(documents: Tensor | None, tile: _Tile, d_conv: int) -> list[Tensor | None]:
    """Return per tap (rows, length, 1), whether its input is of the same document; None: always."""
    if documents is None:
        return [None] * d_conv
    halo = d_conv - 1
    numbers = documents[tile.rows, max(0, tile.start - halo) : tile.stop].unsqueeze(-1)
    if not tile.start:  # what precedes position 0 is of document 0
        numbers = F.pad(numbers, (0, 0, halo, 0))
    if numbers.device.type == "cpu" and bool((numbers[:, 0] == numbers[:, -1]).all()):
        return [None] * d_conv
    own = numbers[:, halo:]
    return [*(numbers[:, tap : tap + own.shape[1]] == own for tap in range(halo)), None]


def _sums(inputs: Tensor, taps: Tensor, bias: Tensor, masks: list[Tensor | None]) -> Tensor:
    length = inputs.shape[1] - (len(taps) - 1)
    sums = torch.addcmul(bias.to(taps.dtype), inputs[:, -length:], taps[-1])
    for tap in range(len(taps) - 1):
        shifted, mask = inputs[:, tap : tap + length], masks[tap]
        sums.addcmul_(shifted if mask is None else shifted * mask, taps[tap])
    return sums
