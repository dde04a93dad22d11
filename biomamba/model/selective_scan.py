"""The scan of Mamba-1, tile by tile, with a hand-written backward.

Each channel and state has a decay of its own, so there are no matrices between positions to
multiply. What is fast is the plain recurrence on data that stays in the cache: all products with
A, B and C for a tile of positions at once, then one fused multiply-add per position. The backward
makes the states again, from the one that entered each tile; no others are kept.

Inside, a state is (rows, d_state, channels): channels lie next to each other in memory. Time comes
first: t = positions, r = rows, d = channels of one tile; n = d_state. A map is (t, r, n), or (n, d)
if it is the same at all positions. Other letters: see `biomamba.model.ssd`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from biomamba.model.ssd import state_dtype

# Elements of one (t, r, n, d) array. On a CPU 256 KiB in float32, so that the four in use at a time
# fit the L2 cache; elsewhere 256 MiB.
_TILE_ELEMENTS = 2**16
_TILE_ELEMENTS_ELSEWHERE = 2**26
_POSITIONS = 16


def scan_selectively(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    maps: tuple[Tensor, Tensor],
    documents: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run `ScanBackend.selective_scan`; `maps` = B and C, `documents` as of `document_numbers`."""
    wide = state_dtype(x)
    if initial_state is None:
        initial_state = x.new_zeros(len(x), x.shape[2], A.shape[1], dtype=wide)
    starts = None if documents is None else documents.diff(dim=1, prepend=documents[:, :1]) != 0
    result: tuple[Tensor, Tensor] = _SelectiveScan.apply(  # type: ignore[no-untyped-call]
        x, dt.to(wide), A.to(wide), *maps, initial_state.to(wide), starts
    )
    return result


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        x, _, A, _, _, initial_state, _ = args
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        state = initial_state.mT.contiguous()  # (batch, n, channels)
        tiles = _tiles(x, A.shape[1])
        entering = state.new_empty(1 + max(tile.number for tile in tiles), *state.shape)
        for tile in tiles:
            own = state[tile.rows, :, tile.channels]
            entering[tile.number, tile.rows, :, tile.channels] = own
            inputs = _inputs(args, tile)
            states = _outer(inputs.x * inputs.dt, inputs.B)
            own.copy_(_recur(inputs.decays, states, own))
            y[tile.of_rows] = _over_states(states, inputs.C).transpose(0, 1)
        ctx.save_for_backward(*args, entering)
        return y, state.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
        *args, entering = ctx.saved_tensors
        x, dt, A, B, C, _, _ = args
        g_x, g_dt = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, dt))
        g_A, g_B, g_C = (torch.zeros(t.shape, dtype=dt.dtype, device=t.device) for t in (A, B, C))
        g_state = grad_final.mT.contiguous()
        for tile in reversed(_tiles(x, A.shape[1])):
            inputs = _inputs(args, tile)
            first = entering[tile.number, tile.rows, :, tile.channels]
            grads = _tile_backward(
                inputs,
                first,
                grad_y[tile.of_rows].transpose(0, 1).to(dt.dtype),
                g_state[tile.rows, :, tile.channels],
            )
            g_x[tile.of_rows] = grads.x.transpose(0, 1)
            g_dt[tile.of_rows] = grads.dt.transpose(0, 1)
            for total, part in ((g_A, grads.A), (g_B, grads.B), (g_C, grads.C)):
                tile.add_to_map(total, part)
        return g_x, g_dt, g_A, g_B.to(B.dtype), g_C.to(C.dtype), g_state.mT, None


class _Tile(NamedTuple):
    """A part of rows and channels, and the number-th stretch of positions."""

    number: int
    rows: slice
    positions: slice
    channels: slice

    @property
    def of_rows(self) -> tuple[slice, slice, slice]:
        """Cut (batch, length, channels)."""
        return self.rows, self.positions, self.channels

    def map(self, tensor: Tensor) -> Tensor:
        """Cut (batch, length, d_state) to (t, r, n), or (channels, d_state) to (n, d)."""
        if tensor.dim() == 2:
            return tensor[self.channels].t()
        return tensor[self.rows, self.positions].transpose(0, 1)

    def add_to_map(self, total: Tensor, part: Tensor) -> None:
        """Add a part cut as by `map`."""
        self.map(total).add_(part)


class _Inputs(NamedTuple):
    """What one tile needs, in the dtype of states."""

    x: Tensor  # (t, r, d)
    dt: Tensor  # (t, r, d)
    A: Tensor  # (n, d)
    B: Tensor  # a map
    C: Tensor  # a map
    decays: Tensor  # (t, r, n, d)


class _Grads(NamedTuple):
    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


def _inputs(args: Any, tile: _Tile) -> _Inputs:
    x, dt, A, B, C, _, starts = args
    wide = dt.dtype
    x, dt = (t[tile.of_rows].transpose(0, 1).to(wide) for t in (x, dt))
    A, B, C = (tile.map(t).to(wide).contiguous() for t in (A, B, C))
    decays = _outer(dt, A).exp_()
    if starts is not None:
        resets = starts[tile.rows, tile.positions].t()  # (t, r)
        if resets.device.type != "cpu" or bool(resets.any()):
            decays.masked_fill_(resets[..., None, None], 0.0)
    return _Inputs(x, dt, A, B, C, decays)


def _tile_backward(inputs: _Inputs, first: Tensor, g_out: Tensor, g_state: Tensor) -> _Grads:
    """Return the gradients of a tile; turn `g_state`, of its last state, into that of `first`."""
    states = _outer(inputs.x * inputs.dt, inputs.B)
    _recur(inputs.decays, states, first)
    g_C = _over_channels(states, g_out, inputs.C)
    g_states = _outer(g_out, inputs.C)
    g_states[-1] += g_state
    decays, later = inputs.decays.unbind(0), g_states.unbind(0)
    for t in reversed(range(1, len(later))):
        later[t - 1].addcmul_(decays[t], later[t])
    g_input = _over_states(g_states, inputs.B)
    g_B = _over_channels(g_states, inputs.x * inputs.dt, inputs.B)
    # From here on with the decays: g_states becomes the gradient of dt * A.
    g_states.mul_(inputs.decays)
    g_state.copy_(g_states[0])
    g_states[1:].mul_(states[:-1])
    g_states[0].mul_(first)
    g_dt = _over_states(g_states, inputs.A).addcmul_(g_input, inputs.x)
    g_A = _over_channels(g_states, inputs.dt, inputs.A)
    return _Grads(g_input.mul_(inputs.dt), g_dt, g_A, g_B, g_C)


def _recur(decays: Tensor, updates: Tensor, state: Tensor) -> Tensor:
    """Turn the updates (t, r, n, d) into states, in place, and return the last one."""
    for decay, update in zip(decays.unbind(0), updates.unbind(0), strict=True):
        state = update.addcmul_(decay, state)
    return state


def _outer(values: Tensor, of_states: Tensor) -> Tensor:
    """Return the products (t, r, n, d) of values (t, r, d) and a map."""
    factors = of_states if of_states.dim() == 2 else of_states.unsqueeze(-1)
    return values.unsqueeze(2) * factors


def _over_states(states: Tensor, weights: Tensor) -> Tensor:
    """Return (t, r, d): states (t, r, n, d) times a map, summed over n."""
    if weights.dim() == 3:
        return torch.matmul(weights.unsqueeze(-2), states).squeeze(-2)
    parts = states.unbind(2)
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total.addcmul_(part, weight)
    return total


def _over_channels(states: Tensor, values: Tensor, of_states: Tensor) -> Tensor:
    """Return states (t, r, n, d) times values (t, r, d), summed to the shape of a map."""
    if of_states.dim() == 3:
        return torch.matmul(states, values.unsqueeze(-1)).squeeze(-1)
    total = torch.zeros_like(of_states)
    for part, value in zip(states.flatten(0, 1), values.flatten(0, 1), strict=True):
        total.addcmul_(part, value)
    return total


def _tiles(x: Tensor, d_state: int) -> list[_Tile]:
    """Cut rows, channels and positions; the positions of each part follow each other."""
    batch, length, channels = x.shape
    budget = _TILE_ELEMENTS if x.device.type == "cpu" else _TILE_ELEMENTS_ELSEWHERE
    width = min(channels, max(1, budget // (_POSITIONS * d_state)))
    width = -(-channels // -(-channels // width))
    rows = max(1, min(batch, budget // (_POSITIONS * d_state * width)))
    duration = max(_POSITIONS, budget // (rows * d_state * width))
    return [
        _Tile(
            start // duration,
            slice(row, min(row + rows, batch)),
            slice(start, min(start + duration, length)),
            slice(channel, min(channel + width, channels)),
        )
        for row in range(0, batch, rows)
        for channel in range(0, channels, width)
        for start in range(0, length, duration)
    ]
