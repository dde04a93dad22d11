"""Blocks that take one position of a fixed number of rows, on memory that stays where it is.

What a step does is always the same operations on the same tensors: nothing depends on the data, no
number passes to the host, and no state of Python changes. So a GPU can record a step and repeat it.
The numbers are those of the steps of `biomamba.model.decoder`.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model.decoder import BlockStep, Decoder, PlainStep
from biomamba.model.mamba2_step import Mamba2Step
from biomamba.model.mixer import LayerState


class StaticBlock(Protocol):
    """One block with the states of a fixed number of rows."""

    def load(self, state: LayerState) -> None:
        """Write the state of the first rows; `state` may have fewer rows."""
        ...

    def state(self) -> LayerState:
        """Return a copy of the state of every row."""
        ...

    def move(self, rows: Tensor) -> None:
        """Write these rows, in this order, in the place of the first ones."""
        ...

    def __call__(self, residual: Tensor) -> Tensor:
        """Add the output of the block to the residual stream (rows, d_model)."""
        ...


class StaticPlainStep:
    """A block of any kind; the state that its `step` returns is written over the one before."""

    def __init__(self, step: PlainStep, num_rows: int) -> None:
        self._block = step.block
        self._state = self._block.mixer.initial_state(num_rows)

    def load(self, state: LayerState) -> None:
        """Write the state of the first rows; `state` may have fewer rows."""
        for mine, part in zip(self._state, state, strict=True):
            mine[: len(part)] = part

    def state(self) -> LayerState:
        """Return a copy of the state of every row."""
        return LayerState(*(part.clone() for part in self._state))

    def move(self, rows: Tensor) -> None:
        """Write these rows, in this order, in the place of the first ones."""
        for part in self._state:
            part[: len(rows)] = part[rows]

    def __call__(self, residual: Tensor) -> Tensor:
        """Add the output of the block to the residual stream (rows, d_model)."""
        residual, state = self._block.step(residual, self._state)
        for mine, part in zip(self._state, state, strict=True):
            mine.copy_(part)
        return residual


class StaticMamba2Step(Mamba2Step):
    """A Mamba2 block that reads from a tensor where in the ring it writes.

    Weights and their copies are shared with the step that it is made from. `slot` (1,) is the place
    of the oldest input in the ring, the same for all blocks; whoever owns it moves it on.
    """

    def __init__(self, step: Mamba2Step, num_rows: int, slot: Tensor) -> None:
        self.__dict__.update(vars(step))
        self._slot = slot
        self._taps_behind = self._taps.roll(-1, 0)  # for the ring after a write to place p
        super().load(self._block.mixer.initial_state(num_rows))

    def load(self, state: LayerState) -> None:
        """Write the state of the first rows; the slot must be at 0."""
        num_rows = len(state.conv)
        self._ring[:-1, :num_rows] = state.conv.permute(2, 0, 1)
        groups = num_rows * self.config.ngroups
        self._ssm[:groups] = state.ssm.reshape(groups, -1, self.config.d_state).mT

    def _oldest_first(self) -> Tensor:
        taps = self.config.d_conv
        places = (self._slot + torch.arange(taps, device=self._slot.device)) % taps
        return self._ring[places]

    def move(self, rows: Tensor) -> None:
        """Write these rows, in this order, in the place of the first ones."""
        by_row = torch.unflatten(self._ssm, 0, (-1, self.config.ngroups))
        by_row[: len(rows)] = by_row[rows]
        self._ring[:, : len(rows)] = self._ring[:, rows]

    def _convolve(self, xBC: Tensor) -> Tensor:
        self._ring.index_copy_(0, self._slot, xBC.unsqueeze(0))
        taps = self._taps_behind.index_select(0, self._slot).squeeze(0)
        return F.silu((self._ring * taps).sum(0))


class StaticStep:
    """A step of all blocks of a decoder for a fixed number of rows, beginning with empty states.

    Attributes:
        ids: (rows,), to be written before a step.
        logits: (rows, padded_vocab) of the last step.
    """

    def __init__(self, decoder: Decoder, num_rows: int) -> None:
        self._decoder = decoder
        self._d_conv = decoder.model.config.d_conv
        device = decoder.model.head_weight.device
        # Tensors made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.ids = torch.zeros(num_rows, dtype=torch.long, device=device)
            self._slot = torch.zeros(1, dtype=torch.long, device=device)
            self._blocks = [_static(block, num_rows, self._slot) for block in decoder.blocks]
        self.logits = torch.empty(0)

    @torch.no_grad()
    def load(self, states: Sequence[LayerState]) -> None:
        """Write the states of the first rows."""
        self._slot.zero_()
        for block, state in zip(self._blocks, states, strict=True):
            block.load(state)

    @torch.no_grad()
    def states(self, num_rows: int) -> list[LayerState]:
        """Return a copy of the states of the first rows."""
        found = (block.state() for block in self._blocks)
        return [LayerState(*(part[:num_rows] for part in state)) for state in found]

    @torch.no_grad()
    def move(self, rows: Tensor) -> None:
        """Write these rows, in this order, in the place of the first ones."""
        for block in self._blocks:
            block.move(rows)

    @torch.no_grad()
    def __call__(self) -> None:
        """Take a step: from `ids` to `logits`."""
        # Autocast keeps copies of weights in memory that does not belong to the step.
        with torch.autocast(self.ids.device.type, enabled=False):
            self.logits = self._decoder.through(self._blocks, self.ids)
        self._slot.add_(1).remainder_(self._d_conv)


def _static(block: BlockStep, num_rows: int, slot: Tensor) -> StaticBlock:
    match block:
        case Mamba2Step():
            return StaticMamba2Step(block, num_rows, slot)
        case PlainStep():
            return StaticPlainStep(block, num_rows)
    raise TypeError(f"{type(block).__name__} has no step on fixed memory")
