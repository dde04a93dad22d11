"""The scan as matrix products over chunks, in plain PyTorch: fast on a CPU and on any GPU.

Source: arXiv 2405.21060, section 6 and Listing 1. B and C are never copied per head: products that
involve only them and the state run once per group of heads. Memory grows linearly with the length.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model.ssd import document_numbers, state_dtype


class ChunkedSSD:
    """Compute the scan chunk by chunk.

    Products run in the dtype of x; decays, their sums and the states in float32 (float64 for
    float64 inputs).
    """

    name = "chunked"

    def __init__(self, chunk_size: int = 64) -> None:
        if chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: must be at least 1")
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
        """Run the scan; see `SSDBackend.scan`. The length may be any; dt = 0 fills it up."""
        length = x.shape[1]
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


def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    setting: tuple[int, Tensor | None, Tensor | None],
) -> tuple[Tensor, Tensor]:
    """Scan a length that is a multiple of the chunk; `setting` = chunk, documents, first state.

    Chunks are stacked with the batch: k = batch * chunks below, q = chunk size.
    """
    q, documents, initial_state = setting
    batch, length, heads, headdim = x.shape
    groups, d_state = B.shape[2:]
    k = batch * (length // q)
    wide = state_dtype(x)
    boundaries = None if documents is None else documents.view(batch, -1, q)

    dt = dt.to(wide).reshape(k, q, heads)
    sums = (dt * A.to(wide)).transpose(1, 2).cumsum(-1)  # (k, h, q)
    x = x.reshape(k, q, heads, headdim)
    B, C = _by_group(B, q), _by_group(C, q)  # (k * g, q, n)

    # 1. What the positions of a chunk add to each other.
    scores = torch.bmm(C, B.transpose(1, 2)).view(k, groups, 1, q, q)
    decays = _decays_within(sums, boundaries).to(x.dtype).view(k, groups, -1, q, q)
    inputs = (x * dt.to(x.dtype).unsqueeze(-1)).transpose(1, 2).reshape(-1, q, headdim)
    within = torch.bmm((scores * decays).view(-1, q, q), inputs)  # (k * h, q, p)

    # 2. The state that each chunk alone would end with.
    to_end = _decays_to_end(sums, boundaries).transpose(1, 2)  # (k, q, h)
    weighted = x * (dt * to_end).to(x.dtype).unsqueeze(-1)
    weighted = _by_group(weighted.view(k, q, groups, -1), q)  # (k * g, q, h / g * p)
    ends = torch.bmm(weighted.transpose(1, 2), B).view(batch, -1, heads, headdim, d_state)

    # 3. The recurrence over chunks.
    through = _decays_through(sums, boundaries).view(batch, -1, heads)
    entering, final_state = _recur(ends.to(wide), through, initial_state)

    # 4. What the entering state adds to each position.
    states = entering.to(x.dtype).view(k * groups, -1, d_state)
    outside = torch.bmm(C, states.transpose(1, 2))  # (k * g, q, h / g * p)
    outside = outside.view(k, groups, q, -1).transpose(1, 2).reshape(k, q, heads, headdim)
    from_start = _decays_from_start(sums, boundaries).transpose(1, 2).to(x.dtype)
    within = within.view(k, heads, q, headdim).transpose(1, 2)
    y = torch.addcmul(within, outside, from_start.unsqueeze(-1))
    return y.reshape(batch, length, heads, headdim), final_state


def _by_group(tensor: Tensor, chunk_size: int) -> Tensor:
    """Turn (..., groups, size) into (chunks * groups, chunk_size, size); one group: no copy."""
    groups, size = tensor.shape[-2:]
    tensor = tensor.reshape(-1, chunk_size, groups, size).transpose(1, 2)
    return tensor.reshape(-1, chunk_size, size)


def _decays_within(sums: Tensor, boundaries: Tensor | None) -> Tensor:
    """Return L (k, h, l, s): the decay from s to l, zero for s > l and across documents."""
    q = sums.shape[-1]
    mask = torch.ones(q, q, dtype=torch.bool, device=sums.device).tril()
    if boundaries is not None:
        numbers = boundaries.reshape(-1, 1, q)
        mask = mask & (numbers.unsqueeze(-1) == numbers.unsqueeze(-2))
    # Masked before exp: above the diagonal the differences are positive and could overflow.
    return (sums.unsqueeze(-1) - sums.unsqueeze(-2)).masked_fill(~mask, -torch.inf).exp()


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


def _recur(ends: Tensor, through: Tensor, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the state that enters each chunk (b, c, h, p, n) and the one after the last.

    Chunks are unbound rather than indexed: the backward of indexing is quadratic in their number.
    """
    state = torch.zeros_like(ends[:, 0]) if initial_state is None else initial_state.to(ends.dtype)
    entering = []
    for decay, end in zip(through[..., None, None].unbind(1), ends.unbind(1), strict=True):
        entering.append(state)
        state = torch.addcmul(end, state, decay)
    return torch.stack(entering, dim=1), state
