"""The scan as matrix products over chunks, in plain PyTorch: fast on a CPU and on any GPU.

Source: arXiv 2405.21060, section 6 and Listing 1. B and C are never copied per head: products that
involve only them and the state run once per group of heads. Memory grows linearly with the length.
Mamba-1 has no such products; its scan is in `biomamba.model.selective_scan`.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from biomamba.model.selective_scan import scan_selectively
from biomamba.model.ssd import document_numbers, state_dtype
from biomamba.runtime.numbers import check_whole

# -------------------------------------------------------------------------------------------------
# The matrix products of the chunked scan, with a hand-written backward, tile by tile.
#
# The (chunk, chunk) matrices of each head are made for a few chunks at a time, so that on a CPU
# they stay in the cache, and made again in the backward: none is kept. Decays come in from outside,
# where autograd differentiates them.
#
# Shapes: k = batch * chunks stacked, t = the chunks of one tile, q = chunk size; other letters as
# in `biomamba.model.ssd`.
# Source: arXiv 2405.21060, section 6 and Listing 1, whose four steps are numbered below.
# -------------------------------------------------------------------------------------------------

# Elements of one (t, h, q, q) array on a CPU: 2 MiB in float32; larger ones leave the cache.
_TILE_ELEMENTS = 2**19
_LOG2_E = math.log2(math.e)


class Decays(NamedTuple):
    """What the products need of dt, A and the document boundaries, in the dtype of states."""

    dt: Tensor  # (k, q, h)
    sums: Tensor  # (k, h, q): cumulative dt * A within each chunk
    to_end: Tensor  # (k, q, h): dt times the decay to the chunk's end, 0 in an ended document
    from_start: Tensor  # (k, q, h): decay of the entering state, 0 once its document has ended
    through: Tensor  # (b, c, h): decay of the entering state over the chunk


def scan_chunks(
    maps: tuple[Tensor, Tensor, Tensor],
    decays: Decays,
    initial_state: Tensor,
    documents: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return y (k, q, h, p) in the dtype of x and the final state (b, h, p, n).

    `maps` = x (k, q, h, p), B and C (k, q, g, n); `documents` (k, q) are numbers that differ
    between documents.
    """
    result: tuple[Tensor, Tensor] = _ChunkScan.apply(  # type: ignore[no-untyped-call]
        *maps, *decays, initial_state, documents
    )
    return result


class _ChunkScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        x, B, C, dt, sums, to_end, from_start, through, initial_state, documents = args
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        entering = x.new_empty(len(x), *initial_state.shape[1:])  # (k, h, p, n)
        state = initial_state.clone()
        for tile in _tiles(x, through):
            at = tile.at
            within = _within(x[at], B[at], C[at], (dt[at], sums[at]), _at(documents, at))
            inner = torch.bmm(within.mixing, within.inputs)
            # 2. The state that each chunk alone would end with.
            weighted = _by_group(x[at] * _like(x, to_end[at]), B)  # (t * g, q, h / g * p)
            ends = torch.bmm(weighted.mT, _by_group(B[at], B))
            # 3. The recurrence over chunks.
            _recur(tile, ends, through, state, entering[at])
            # 4. What the entering state adds to each position.
            outside = _outside(C[at], entering[at], x[at])
            y[at] = _from_heads(inner, x[at])
            y[at].addcmul_(outside, _like(x, from_start[at]))
        ctx.save_for_backward(*args, entering)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
        *args, documents, entering = ctx.saved_tensors
        x, B, C, dt, sums, to_end, from_start, through, _ = args
        grads = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in args[:-1]]
        g_x, g_B, g_C, g_dt, g_sums, g_to_end, g_from_start, g_through = grads
        g_state = grad_final.clone()
        for tile in reversed(_tiles(x, through)):
            at = tile.at
            x_t, B_t, C_t = x[at], _by_group(B[at], B), _by_group(C[at], B)
            # Step 4: from the outputs to the entering states.
            decayed = _by_group(grad_y[at] * _like(x, from_start[at]), B)
            g_entering = torch.bmm(decayed.mT, C_t)
            g_C_outside = torch.bmm(decayed, _states_by_group(entering[at], B))
            outside = _outside(C[at], entering[at], x_t)
            g_from_start[at] = _dot(grad_y[at], outside, sums.dtype)
            # Step 3, from the last chunk to the first.
            g_ends = torch.empty_like(entering[at])
            _recur_backward(tile, (g_entering, entering[at], through), g_state, (g_ends, g_through))
            # Step 2: the end states.
            weights = _like(x, to_end[at])
            states = _states_by_group(g_ends, B)  # (t * g, h / g * p, n)
            g_weighted = _from_group(torch.bmm(B_t, states.mT), B).view_as(x_t)
            g_B_end = torch.bmm(_by_group(x_t * weights, B), states)
            g_to_end[at] = _dot(x_t, g_weighted, sums.dtype)
            # Step 1: within the chunk.
            within = _within(x_t, B[at], C[at], (dt[at], sums[at]), _at(documents, at))
            g_inner = _within_backward(within, _to_heads(grad_y[at]))
            g_inputs = _from_heads(g_inner.inputs, x_t)
            g_x[at] = g_weighted.mul_(weights).addcmul_(g_inputs, _like(x, dt[at]))
            g_dt[at] = _dot(x_t, g_inputs, sums.dtype)
            g_sums[at] = g_inner.sums
            g_B[at] = _from_group(torch.baddbmm(g_B_end, g_inner.scores.mT, C_t), B)
            g_C[at] = _from_group(torch.baddbmm(g_C_outside, g_inner.scores, B_t), B)
        return *grads, g_state, None


class _Within(NamedTuple):
    """Step 1, what the positions of a chunk add to each other: y = mixing @ inputs."""

    scores: Tensor  # (t, g, 1, q, q): C B^T
    L: Tensor  # (t, g, h / g, q, q), in the dtype of states
    mixing: Tensor  # (t * h, q, q): scores * L
    inputs: Tensor  # (t * h, q, p): dt x


class _WithinGrads(NamedTuple):
    scores: Tensor  # (t * g, q, q)
    sums: Tensor  # (t, h, q)
    inputs: Tensor  # (t * h, q, p)


def _within(
    x: Tensor, B: Tensor, C: Tensor, steps: tuple[Tensor, Tensor], documents: Tensor | None
) -> _Within:
    dt, sums = steps
    tile, q, heads, _ = x.shape
    groups = B.shape[2]
    # exp2 rather than exp: on a CPU several times faster, most of all where the result underflows.
    exponents = sums * _LOG2_E
    L = exponents.unsqueeze(-1) - exponents.unsqueeze(-2)
    # Masked before exp2: above the diagonal the differences are positive and could overflow.
    # Adding -inf takes a tenth of the time of masked_fill_.
    L = L.add_(_barred(documents, L)).exp2_().view(tile, groups, -1, q, q)
    scores = torch.bmm(_by_group(C, B), _by_group(B, B).mT).view(tile, groups, 1, q, q)
    mixing = (scores * L).to(x.dtype).view(tile * heads, q, q)
    return _Within(scores, L, mixing, _to_heads(x * _like(x, dt)))


def _barred(documents: Tensor | None, exponents: Tensor) -> Tensor:
    """Return -inf where a position comes later or is of another document, else 0: (.., q, q)."""
    q = exponents.shape[-1]
    barred = exponents.new_full((q, q), -torch.inf).triu_(1)
    if documents is None:
        return barred
    others = documents.unsqueeze(2) != documents.unsqueeze(1)
    return barred.masked_fill(others, -torch.inf).unsqueeze(1)


def _within_backward(within: _Within, grad_y: Tensor) -> _WithinGrads:
    scores, L, mixing, inputs = within
    g_inputs = torch.bmm(mixing.mT, grad_y)
    g_mixing = torch.bmm(grad_y, inputs.mT).view_as(L) * L
    g_scores = g_mixing.sum(2, dtype=L.dtype).to(scores.dtype).flatten(0, 1)
    # Each entry counts with opposite signs at its two positions, so that a cumulative sum over
    # positions cancels it exactly; sums of y * grad_y would not.
    g_exponents = g_mixing.mul_(scores).flatten(1, 2)  # (t, h, q, q)
    return _WithinGrads(g_scores, g_exponents.sum(-1) - g_exponents.sum(-2), g_inputs)


class _Tile(NamedTuple):
    """Some chunks of one row, or all chunks of some rows."""

    at: slice  # of the stacked chunks
    rows: slice
    chunks: slice

    def part(self, stacked: Tensor, shape: torch.Size) -> Tensor:
        """View a tile's (t, ...) as (rows, chunks, h, p, n), with the shape of the state."""
        return stacked.view(shape[0], -1, *shape[1:])


def _recur(tile: _Tile, ends: Tensor, through: Tensor, state: Tensor, entering: Tensor) -> None:
    """Fill in the states that enter the chunks of a tile and move `state` after them."""
    state = state[tile.rows]
    factors = through[tile.rows, tile.chunks, :, None, None].unbind(1)
    ends, entering = (tile.part(each, state.shape) for each in (ends, entering))
    for factor, end, before in zip(factors, ends.unbind(1), entering.unbind(1), strict=True):
        before.copy_(state)
        state.mul_(factor).add_(end)


def _recur_backward(
    tile: _Tile,
    of_chunks: tuple[Tensor, Tensor, Tensor],
    g_state: Tensor,
    found: tuple[Tensor, Tensor],
) -> None:
    """Fill in the gradients of ends and through, and move `g_state` before the tile."""
    g_state = g_state[tile.rows]
    g_entering, entering, through = of_chunks
    g_ends, g_through = found
    g_entering, entering, g_ends = (
        tile.part(each, g_state.shape) for each in (g_entering, entering, g_ends)
    )
    first = tile.chunks.start
    for chunk in reversed(range(entering.shape[1])):
        g_ends[:, chunk] = g_state
        g_through[tile.rows, first + chunk] = (g_state * entering[:, chunk]).sum((-1, -2))
        factor = through[tile.rows, first + chunk, :, None, None]
        g_state.mul_(factor).add_(g_entering[:, chunk])


def _outside(C: Tensor, entering: Tensor, x: Tensor) -> Tensor:
    """Return C S of the entering states, shaped like x, without the decay."""
    product = torch.bmm(_by_group(C, C), _states_by_group(entering, C).mT)
    return _from_group(product, C).view_as(x)


def _tiles(x: Tensor, through: Tensor) -> list[_Tile]:
    """Cut the stacked chunks into tiles that fit the cache of a CPU; elsewhere one tile.

    In order, so that the state passes from one tile of a row to the next.
    """
    rows, chunks, heads = through.shape
    size = max(1, _TILE_ELEMENTS // (heads * x.shape[1] ** 2))
    if x.device.type != "cpu":
        size = rows * chunks
    num_rows, size = max(1, size // chunks), min(size, chunks)
    return [
        _Tile(
            slice(row * chunks + first, (last - 1) * chunks + end),
            slice(row, last),
            slice(first, end),
        )
        for row in range(0, rows, num_rows)
        for last in [min(row + num_rows, rows)]
        for first in range(0, chunks, size)
        for end in [min(first + size, chunks)]
    ]


def _at(documents: Tensor | None, tile: slice) -> Tensor | None:
    return None if documents is None else documents[tile]


def _like(x: Tensor, factors: Tensor) -> Tensor:
    """Make factors (t, q, h) multiply x (t, q, h, p)."""
    return factors.to(x.dtype).unsqueeze(-1)


def _dot(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the products summed over the last dimension."""
    return (a.to(dtype) * b).sum(-1)


def _to_heads(tensor: Tensor) -> Tensor:
    """(t, q, h, p) -> (t * h, q, p), a copy."""
    tile, q, heads, headdim = tensor.shape
    return tensor.transpose(1, 2).reshape(tile * heads, q, headdim)


def _from_heads(tensor: Tensor, x: Tensor) -> Tensor:
    """(t * h, q, p) -> (t, q, h, p) like x, a view."""
    tile, q, heads, headdim = x.shape
    return tensor.view(tile, heads, q, headdim).transpose(1, 2)


def _by_group(tensor: Tensor, B: Tensor) -> Tensor:
    """(t, q, g, ...) or (t, q, h, p) -> (t * g, q, -1); a view if there is one group."""
    tile, q = tensor.shape[:2]
    groups = B.shape[2]
    return tensor.reshape(tile, q, groups, -1).transpose(1, 2).reshape(tile * groups, q, -1)


def _from_group(tensor: Tensor, B: Tensor) -> Tensor:
    """(t * g, q, size) -> (t, q, g, size)."""
    groups, q = B.shape[2], B.shape[1]
    return tensor.view(-1, groups, q, tensor.shape[-1]).transpose(1, 2).contiguous()


def _states_by_group(states: Tensor, B: Tensor) -> Tensor:
    """(t, h, p, n) -> (t * g, h / g * p, n), a view."""
    return states.reshape(len(states) * B.shape[2], -1, states.shape[-1])


# -------------------------------------------------------------------------------------------------
# The scan as matrix products over chunks, in plain PyTorch: fast on a CPU and on any GPU.
# -------------------------------------------------------------------------------------------------

# exp of these is 0 in the dtype, as of anything below. Sums of dt * A lose no digits to more.
_FORGOTTEN = {torch.float32: -128.0, torch.float64: -1_000.0}


class ChunkedScan:
    """Compute the scan chunk by chunk.

    Products run in the dtype of x; decays, their sums and the states in float32 (float64 for
    float64 inputs). With fp16 inputs the steps of a head are scaled down to 1 at the most, and
    outputs beyond the range of fp16 become its largest number: they stay finite.
    """

    name = "chunked"

    def __init__(self, chunk_size: int = 64) -> None:
        check_whole("chunk_size", chunk_size)
        self.chunk_size = chunk_size

    def scan(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        *,
        seq_idx: Tensor | None = None,
        initial_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the scan; see `ScanBackend.scan`. The length may be any; dt = 0 fills it up.

        Raises:
            ValueError: There are no positions.
        """
        length = x.shape[1]
        if not length:
            raise ValueError("length 0: a scan needs at least one position")
        chunk_size = min(self.chunk_size, length)
        padding = -length % chunk_size
        documents = None if seq_idx is None else document_numbers(seq_idx)
        if padding:
            x, B, C = (F.pad(t, (0, 0, 0, 0, 0, padding)) for t in (x, B, C))
            dt = F.pad(dt, (0, 0, 0, padding))
            if documents is not None:
                documents = F.pad(documents, (0, padding), mode="replicate")
        with torch.autocast(x.device.type, enabled=False):
            y, final_state = _scan(x, dt, A, B, C, (chunk_size, documents, initial_state))
        return y[:, :length], final_state

    def selective_scan(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        *,
        seq_idx: Tensor | None = None,
        initial_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the scan; see `ScanBackend.selective_scan`."""
        documents = None if seq_idx is None else document_numbers(seq_idx)
        with torch.autocast(x.device.type, enabled=False):
            return scan_selectively(x, dt, A, (B, C), documents, initial_state)


def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    setting: tuple[int, Tensor | None, Tensor | None],
) -> tuple[Tensor, Tensor]:
    """Scan a length that is a multiple of the chunk; `setting` = chunk, documents, first state.

    Chunks are stacked with the batch: k = batch * chunks, q = chunk size.
    """
    q, documents, initial_state = setting
    batch, length, heads, headdim = x.shape
    wide = state_dtype(x)
    boundaries = None if documents is None else documents.view(batch, -1, q)

    dt = dt.to(wide).reshape(-1, q, heads)
    exponents = (dt * A.to(wide)).clamp(min=_FORGOTTEN[wide])
    sums = exponents.transpose(1, 2).cumsum(-1)  # (k, h, q)
    scale = _scale(dt) if x.dtype == torch.float16 else None
    if scale is not None:
        dt = dt / scale
    decays = Decays(
        dt=dt,
        sums=sums,
        to_end=dt * _decays_to_end(sums, boundaries).transpose(1, 2),
        from_start=_decays_from_start(sums, boundaries).transpose(1, 2),
        through=_decays_through(sums, boundaries).view(batch, -1, heads),
    )
    maps = (
        x.reshape(-1, q, heads, headdim),
        B.to(x.dtype).reshape(-1, q, *B.shape[2:]),
        C.to(x.dtype).reshape(-1, q, *C.shape[2:]),
    )
    if initial_state is None:
        initial_state = x.new_zeros(batch, heads, headdim, B.shape[-1], dtype=wide)
    numbers = None if boundaries is None else boundaries.reshape(-1, q)
    state = initial_state.to(wide)
    if scale is None:
        y, final_state = scan_chunks(maps, decays, state, numbers)
    else:
        of_states = scale[:, None, None]
        y, final_state = scan_chunks(maps, decays, state / of_states, numbers)
        y, final_state = _saturated(y * scale.unsqueeze(-1), x.dtype), final_state * of_states
    return y.view(batch, length, heads, headdim), final_state


def _scale(dt: Tensor) -> Tensor:
    """Return per head (h,) the power of two that the steps (k, q, h) do not exceed, 1 or more."""
    return dt.detach().amax((0, 1)).clamp(min=1.0).log2().ceil().exp2()


def _saturated(y: Tensor, dtype: torch.dtype) -> Tensor:
    limit = torch.finfo(dtype).max
    return y.clamp(-limit, limit).to(dtype)


def _decays_to_end(sums: Tensor, boundaries: Tensor | None) -> Tensor:
    """Return (k, h, q): the decay from each position to the chunk's end, within its document."""
    exponents = sums[..., -1:] - sums
    if boundaries is not None:
        ended = boundaries != boundaries[..., -1:]
        exponents = exponents.masked_fill(ended.view(-1, 1, sums.shape[-1]), -torch.inf)
    return exponents.exp()


def _decays_from_start(sums: Tensor, boundaries: Tensor | None) -> Tensor:
    """Return (k, h, q): the decay of the entering state, zero once its document has ended."""
    if boundaries is not None:
        left = boundaries != _entering_documents(boundaries).unsqueeze(-1)
        sums = sums.masked_fill(left.view(-1, 1, sums.shape[-1]), -torch.inf)
    return sums.exp()


def _decays_through(sums: Tensor, boundaries: Tensor | None) -> Tensor:
    """Return (k, h): the decay of the entering state over the chunk, zero if it is reset."""
    exponents = sums[..., -1]
    if boundaries is not None:
        reset = boundaries[..., -1] != _entering_documents(boundaries)
        exponents = exponents.masked_fill(reset.view(-1, 1), -torch.inf)
    return exponents.exp()


def _entering_documents(boundaries: Tensor) -> Tensor:
    """Return (batch, chunks): the document of the state that enters each chunk."""
    ends = boundaries[..., -1]
    return torch.cat([boundaries[:, :1, 0], ends[:, :-1]], dim=1)
