"""The matrix products of the chunked scan, with a hand-written backward, tile by tile.

The (chunk, chunk) matrices of each head are made for a few chunks at a time, so that on a CPU they
stay in the cache, and made again in the backward: none is kept. Decays come in from outside, where
autograd differentiates them.

Shapes: k = batch * chunks stacked, t = the chunks of one tile, q = chunk size; other letters as in
`biomamba.model.ssd`.
Source: arXiv 2405.21060, section 6 and Listing 1, whose four steps are numbered below.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of one (t, h, q, q) array on a CPU: 1 MiB in float32, within the L2 cache.
_TILE_ELEMENTS = 2**18


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
        ends = initial_state.new_empty(len(x), *initial_state.shape[1:])
        for tile in _tiles(x):
            within = _within(
                x[tile], B[tile], C[tile], (dt[tile], sums[tile]), _at(documents, tile)
            )
            y[tile] = _from_heads(torch.bmm(within.mixing, within.inputs), x[tile])
            # 2. The state that each chunk alone would end with.
            weighted = _by_group(x[tile] * _like(x, to_end[tile]), B)  # (t * g, q, h / g * p)
            ends[tile] = torch.bmm(weighted.mT, _by_group(B[tile], B)).view_as(ends[tile])
        # 3. The recurrence over chunks.
        ends = ends.view(*through.shape[:2], *ends.shape[1:])
        entering, final_state = _recur(ends, through, initial_state)
        entering = entering.flatten(0, 1).to(x.dtype)  # (k, h, p, n)
        # 4. What the entering state adds to each position.
        for tile in _tiles(x):
            y[tile] += _outside(C[tile], entering[tile], x[tile]) * _like(x, from_start[tile])
        ctx.save_for_backward(*args, entering)
        return y, final_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
        *args, documents, entering = ctx.saved_tensors
        x, B, C, dt, sums, to_end, from_start, through, _ = args
        grads = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in args]
        g_x, g_B, g_C, g_dt, g_sums, g_to_end, g_from_start, g_through, _ = grads

        # Steps 4 and 3: from the outputs to the entering states, then back over the chunks.
        g_entering = torch.empty(entering.shape, dtype=sums.dtype, device=x.device)
        for tile in _tiles(x):
            decayed = _by_group(grad_y[tile] * _like(x, from_start[tile]), B)
            product = torch.bmm(decayed.mT, _by_group(C[tile], B))
            g_entering[tile] = product.view_as(g_entering[tile])
            g_C[tile] = _from_group(torch.bmm(decayed, _states_by_group(entering[tile], B)), B)
            outside = _outside(C[tile], entering[tile], x[tile])
            g_from_start[tile] = _dot(grad_y[tile], outside, sums.dtype)
        by_chunk = (*through.shape[:2], *entering.shape[1:])
        g_ends, g_through, g_initial = _recur_backward(
            g_entering.view(by_chunk), entering.view(by_chunk), through, grad_final
        )
        g_ends = g_ends.flatten(0, 1).to(x.dtype)

        for tile in _tiles(x):
            # Step 2: the end states.
            x_t, B_t = x[tile], _by_group(B[tile], B)
            weights = _like(x, to_end[tile])
            states = _states_by_group(g_ends[tile], B)  # (t * g, h / g * p, n)
            g_weighted = _from_group(torch.bmm(B_t, states.mT), B).view_as(x_t)
            g_B_end = torch.bmm(_by_group(x_t * weights, B), states)
            g_to_end[tile] = _dot(x_t, g_weighted, sums.dtype)
            # Step 1: within the chunk.
            within = _within(x_t, B[tile], C[tile], (dt[tile], sums[tile]), _at(documents, tile))
            g_inner = _within_backward(within, _to_heads(grad_y[tile]))
            g_inputs = _from_heads(g_inner.inputs, x_t)
            g_x[tile] = g_inputs * _like(x, dt[tile]) + g_weighted * weights
            g_dt[tile] = _dot(x_t, g_inputs, sums.dtype)
            g_sums[tile] = g_inner.sums
            g_B[tile] = _from_group(
                torch.baddbmm(g_B_end, g_inner.scores.mT, _by_group(C[tile], B)), B
            )
            g_C[tile] += _from_group(torch.bmm(g_inner.scores, B_t), B)
        return g_x, g_B, g_C, g_dt, g_sums, g_to_end, g_from_start, g_through, g_initial, None


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
    mask = torch.ones(q, q, dtype=torch.bool, device=x.device).triu(1)
    if documents is not None:
        mask = mask | (documents.unsqueeze(2) != documents.unsqueeze(1)).unsqueeze(1)
    # Masked before exp: above the diagonal the differences are positive and could overflow.
    L = (sums.unsqueeze(-1) - sums.unsqueeze(-2)).masked_fill_(mask, -torch.inf).exp_()
    L = L.view(tile, groups, -1, q, q)
    scores = torch.bmm(_by_group(C, B), _by_group(B, B).mT).view(tile, groups, 1, q, q)
    mixing = (scores * L).to(x.dtype).view(tile * heads, q, q)
    return _Within(scores, L, mixing, _to_heads(x * _like(x, dt)))


def _within_backward(within: _Within, grad_y: Tensor) -> _WithinGrads:
    scores, L, mixing, inputs = within
    g_inputs = torch.bmm(mixing.mT, grad_y)
    g_mixing = torch.bmm(grad_y, inputs.mT).view_as(L) * L
    g_scores = g_mixing.sum(2, dtype=L.dtype).to(scores.dtype).flatten(0, 1)
    # Each entry counts with opposite signs at its two positions, so that a cumulative sum over
    # positions cancels it exactly; sums of y * grad_y would not.
    g_exponents = g_mixing.mul_(scores).flatten(1, 2)  # (t, h, q, q)
    return _WithinGrads(g_scores, g_exponents.sum(-1) - g_exponents.sum(-2), g_inputs)


def _recur(ends: Tensor, through: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state that enters each chunk (b, c, h, p, n) and the one after the last."""
    entering = torch.empty_like(ends)
    for chunk in range(ends.shape[1]):
        entering[:, chunk] = state
        state = torch.addcmul(ends[:, chunk], state, through[:, chunk, :, None, None])
    return entering, state


def _recur_backward(
    g_entering: Tensor, entering: Tensor, through: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ends (b, c, h, p, n), through (b, c, h) and the first state."""
    g_ends, g_through = torch.empty_like(g_entering), torch.empty_like(through)
    for chunk in reversed(range(through.shape[1])):
        g_ends[:, chunk] = grad
        g_through[:, chunk] = (grad * entering[:, chunk]).sum((-1, -2))
        grad = torch.addcmul(g_entering[:, chunk], grad, through[:, chunk, :, None, None])
    return g_ends, g_through, grad


def _outside(C: Tensor, entering: Tensor, x: Tensor) -> Tensor:
    """Return C S of the entering states, shaped like x, without the decay."""
    product = torch.bmm(_by_group(C, C), _states_by_group(entering, C).mT)
    return _from_group(product, C).view_as(x)


def _tiles(x: Tensor) -> list[slice]:
    """Cut the stacked chunks into tiles that fit the cache of a CPU; elsewhere one tile."""
    chunks, q, heads, _ = x.shape
    size = max(1, _TILE_ELEMENTS // (heads * q * q)) if x.device.type == "cpu" else chunks
    return [slice(first, min(first + size, chunks)) for first in range(0, chunks, size)]


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
