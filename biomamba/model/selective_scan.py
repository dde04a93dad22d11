"""The scan of Mamba-1, tile by tile, with a hand-written backward.

Each channel and state has a decay of its own, so there are no matrices between positions to
multiply. What is fast is the plain recurrence on data that stays in the cache: all products with
A, B and C for a tile of positions at once, then one fused multiply-add per position. The backward
makes the states again, from the one that entered each tile; no others are kept.

Inside, a state is (rows, d_state, channels): channels are next to each other in memory. Time comes
first: t = positions, r = rows, d = channels of one tile; n = d_state. A map is (t, r, n), or (n, d)
if it is the same at all positions. Other letters: see `biomamba.model.ssd`.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from biomamba.model.ssd import state_dtype

# Elements of one (t, r, n, d) array. On a CPU 2 MiB in float32: smaller ones would fit the cache
# better, but cost more calls. Elsewhere 256 MiB.
_TILE_ELEMENTS = 2**19
_TILE_ELEMENTS_ELSEWHERE = 2**26
_POSITIONS = 16  # at least, because the state that enters is kept for each so many
_LOG2_E = math.log2(math.e)


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
        arrays = _Arrays(2, tiles, state)
        for tile in tiles:
            own = state[tile.rows, :, tile.channels]
            entering[tile.number, tile.rows, :, tile.channels] = own
            decays, states = arrays.of(tile)
            inputs = _inputs(args, tile, decays)
            _outer(inputs.x * inputs.dt, inputs.B, states)
            own.copy_(_recur(decays, states, own))
            y[tile.of_rows] = _over_states(states, inputs.C, decays).transpose(0, 1)
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
        tiles = _tiles(x, A.shape[1])
        arrays = _Arrays(3, tiles, g_state)
        for tile in reversed(tiles):
            states_of = tile.rows, slice(None), tile.channels
            grads = _tile_backward(
                (args, tile, arrays.of(tile)),
                entering[tile.number][states_of],
                grad_y[tile.of_rows].transpose(0, 1).to(dt.dtype),
                g_state[states_of],
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
    def sizes(self) -> tuple[int, int, int]:
        """Positions, rows and channels."""
        t, r, d = (s.stop - s.start for s in (self.positions, self.rows, self.channels))
        return t, r, d

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


class _Grads(NamedTuple):
    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


class _Arrays:
    """Memory for arrays (t, r, n, d), the same for every tile: to ask for it again is slow."""

    def __init__(self, count: int, tiles: list[_Tile], like: Tensor) -> None:
        t, r, d = (max(sizes) for sizes in zip(*(tile.sizes for tile in tiles), strict=True))
        self._whole = like.new_empty(count, t, r, like.shape[1], d)

    def of(self, tile: _Tile) -> tuple[Tensor, ...]:
        """Return the arrays as large as a tile."""
        t, r, d = tile.sizes
        return self._whole[:, :t, :r, :, :d].unbind(0)


def _inputs(args: Any, tile: _Tile, decays: Tensor) -> _Inputs:
    """Cut the inputs of a tile, and fill in its decays."""
    x, dt, A, B, C, _, starts = args
    wide = dt.dtype
    x, dt = (t[tile.of_rows].transpose(0, 1).to(wide) for t in (x, dt))
    A, B, C = (tile.map(t).to(wide).contiguous() for t in (A, B, C))
    _outer(dt, A * _LOG2_E, decays).exp2_()  # on a CPU three times faster than exp
    if starts is not None:
        resets = starts[tile.rows, tile.positions].t()  # (t, r)
        if resets.device.type != "cpu" or bool(resets.any()):
            decays.masked_fill_(resets[..., None, None], 0.0)
    return _Inputs(x, dt, A, B, C)


def _tile_backward(
    where: tuple[Any, _Tile, tuple[Tensor, ...]], first: Tensor, g_out: Tensor, g_state: Tensor
) -> _Grads:
    """Return the gradients of a tile; turn `g_state`, of its last state, into that of `first`.

    `where` = the inputs of the scan, the tile, and three arrays.
    """
    args, tile, (decays, states, g_states) = where
    inputs = _inputs(args, tile, decays)
    _outer(inputs.x * inputs.dt, inputs.B, states)
    _recur(decays, states, first)
    _outer(g_out, inputs.C, g_states)
    g_states[-1] += g_state
    later = g_states.unbind(0)
    for t, decay in reversed(list(enumerate(decays.unbind(0)))[1:]):
        later[t - 1].addcmul_(decay, later[t])
    g_state.copy_(decays[0] * g_states[0])
    decays[1:].mul_(states[:-1])
    decays[0].mul_(first)
    # Now the derivatives of the states by dt * A; the states themselves are read once more.
    g_C = _over_channels(states, g_out, inputs.C, states)
    g_input = _over_states(g_states, inputs.B, states)
    g_B = _over_channels(g_states, inputs.x * inputs.dt, inputs.B, states)
    g_states.mul_(decays)
    g_dt = _over_states(g_states, inputs.A, states).addcmul_(g_input, inputs.x)
    g_A = _over_channels(g_states, inputs.dt, inputs.A, states)
    return _Grads(g_input.mul_(inputs.dt), g_dt, g_A, g_B, g_C)


def _recur(decays: Tensor, updates: Tensor, state: Tensor) -> Tensor:
    """Turn the updates (t, r, n, d) into states, in place, and return the last one."""
    for decay, update in zip(decays.unbind(0), updates.unbind(0), strict=True):
        state = update.addcmul_(decay, state)
    return state


def _outer(values: Tensor, of_states: Tensor, out: Tensor) -> Tensor:
    """Fill in the products (t, r, n, d) of values (t, r, d) and a map."""
    factors = of_states if of_states.dim() == 2 else of_states.unsqueeze(-1)
    return torch.mul(values.unsqueeze(2), factors, out=out)


def _over_states(states: Tensor, weights: Tensor, scratch: Tensor) -> Tensor:
    """Return (t, r, d): states (t, r, n, d) times a map, summed over n; `scratch` is lost."""
    if weights.dim() == 3:
        return torch.matmul(weights.unsqueeze(-2), states).squeeze(-2)
    return torch.mul(states, weights, out=scratch).sum(2)


def _over_channels(states: Tensor, values: Tensor, of_states: Tensor, scratch: Tensor) -> Tensor:
    """Return states (t, r, n, d) times values (t, r, d), summed to the shape of a map.

    `scratch` is lost; it may be the states.
    """
    if of_states.dim() == 3:
        # On a CPU several times faster than states @ values.
        return torch.matmul(values.unsqueeze(-2), states.mT).squeeze(-2)
    return torch.mul(states, values.unsqueeze(2), out=scratch).sum((0, 1))


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
