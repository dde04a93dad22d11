"""The scans as the plain recurrence: slow, obviously right, the oracle of every other backend."""

import torch
from torch import Tensor

from biomamba.model.ssd import document_numbers, state_dtype


class ReferenceScan:
    """Step through the positions one by one, in float32 (float64 for float64 inputs)."""

    name = "reference"

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
        """Run the recurrence; see `ScanBackend.scan`."""
        dtype = state_dtype(x)
        batch, length, heads, headdim = x.shape
        heads_per_group = heads // B.shape[2]
        with torch.autocast(x.device.type, enabled=False):
            dt, A = dt.to(dtype), A.to(dtype)
            decay = torch.exp(dt * A)  # (batch, length, heads)
            if seq_idx is not None:
                starts = document_numbers(seq_idx).diff(dim=1, prepend=seq_idx.new_zeros(batch, 1))
                decay = decay.masked_fill((starts != 0).unsqueeze(-1), 0.0)
            inputs = x.to(dtype) * dt.unsqueeze(-1)
            B = B.to(dtype).repeat_interleave(heads_per_group, dim=2)
            C = C.to(dtype).repeat_interleave(heads_per_group, dim=2)
            state = x.new_zeros(batch, heads, headdim, B.shape[-1], dtype=dtype)
            if initial_state is not None:
                state = state + initial_state
            outputs = []
            for t in range(length):
                update = inputs[:, t].unsqueeze(-1) * B[:, t].unsqueeze(-2)
                state = decay[:, t, :, None, None] * state + update
                outputs.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]))
            return torch.stack(outputs, dim=1).to(x.dtype), state

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
        """Run the recurrence; see `ScanBackend.selective_scan`."""
        dtype = state_dtype(x)
        batch, length, channels = x.shape
        with torch.autocast(x.device.type, enabled=False):
            dt, A = dt.to(dtype), A.to(dtype)
            B, C = (t.to(dtype) for t in (B, C))
            B, C = (t if t.dim() == 2 else t.unsqueeze(2) for t in (B, C))  # for all channels
            decay = torch.exp(dt.unsqueeze(-1) * A)
            if seq_idx is not None:
                starts = document_numbers(seq_idx).diff(dim=1, prepend=seq_idx.new_zeros(batch, 1))
                decay = decay.masked_fill((starts != 0)[..., None, None], 0.0)
            updates = (x.to(dtype) * dt).unsqueeze(-1) * B
            state = x.new_zeros(batch, channels, A.shape[-1], dtype=dtype)
            if initial_state is not None:
                state = state + initial_state
            states = []
            for t in range(length):
                state = decay[:, t] * state + updates[:, t]
                states.append(state)
            return (torch.stack(states, dim=1) * C).sum(-1).to(x.dtype), state
