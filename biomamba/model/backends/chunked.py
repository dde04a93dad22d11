"""The scan as matrix products over chunks, in plain PyTorch: fast on a CPU and on any GPU.

Source: arXiv 2405.21060, section 6 and Listing 1. B and C are never copied per head: products that
involve only them and the state run once per group of heads. Memory grows linearly with the length.
Here are the decays between positions and chunks; the products are in `biomamba.model.chunk_scan`.
Mamba-1 has no such products; its scan is in `biomamba.model.selective_scan`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model.chunk_scan import Decays, scan_chunks
from biomamba.model.selective_scan import scan_selectively
from biomamba.model.ssd import document_numbers, state_dtype
from biomamba.runtime.numbers import check_whole

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
