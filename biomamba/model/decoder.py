"""The model one position at a time, with states that it owns and updates in place."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model.language_model import MambaBlock, MambaLM
from biomamba.model.mamba2_step import Mamba2Step
from biomamba.model.mixer import LayerState
from biomamba.model.thin_product import ThinProduct
from biomamba.runtime.errors import ConfigError


class BlockStep(Protocol):
    """One block with the states of its rows."""

    def load(self, state: LayerState) -> None:
        """Take over a copy of the state of every row."""
        ...

    def state(self) -> LayerState:
        """Return a copy of the state of every row."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        ...

    def __call__(self, residual: Tensor) -> Tensor:
        """Add the output of the block to the residual stream (batch, d_model)."""
        ...


class PlainStep:
    """A block of any kind, through its own `step`."""

    def __init__(self, block: MambaBlock) -> None:
        self.block = block
        self._state = block.mixer.initial_state(0)

    def load(self, state: LayerState) -> None:
        """Take over a copy of the state of every row."""
        self._state = LayerState(*(part.clone() for part in state))

    def state(self) -> LayerState:
        """Return a copy of the state of every row."""
        return LayerState(*(part.clone() for part in self._state))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self._state = LayerState(*(part[rows] for part in self._state))

    def __call__(self, residual: Tensor) -> Tensor:
        """Add the output of the block to the residual stream (batch, d_model)."""
        residual, self._state = self.block.step(residual, self._state)
        return residual


class Decoder:
    """Computes the logits of one further id per row, like `MambaLM.step`, but faster.

    On a CPU it lays the projections of the model out anew (same numbers, same parameters) and holds
    the matrix of the head a second time. The weights must not change while it is in use.

    Attributes:
        product_dtype: Of projections and head, as under autocast: copies of their matrices are read
            at every step, states and decays stay wide. None: the weights themselves are read.

    Raises:
        ConfigError: The model has blocks that cannot do that.
    """

    @torch.no_grad()
    def __init__(self, model: MambaLM, product_dtype: torch.dtype | None = None) -> None:
        self.model = model
        self.product_dtype = None if product_dtype == model.head_weight.dtype else product_dtype
        self._head = ThinProduct(
            model.head_weight, shares_memory=model.lm_head is not None, dtype=self.product_dtype
        )
        self.blocks = [self._step_of(block) for block in model.backbone.blocks()]

    def _step_of(self, block: MambaBlock) -> BlockStep:
        if Mamba2Step.serves(block):
            return Mamba2Step(block, self.product_dtype)
        if self.product_dtype is not None:
            raise ConfigError(
                f"generation.precision={str(self.product_dtype).removeprefix('torch.')}: only for "
                "Mamba2 without adapters and without static parameters; take float32 for this model"
            )
        return PlainStep(block)

    @torch.no_grad()
    def load(self, states: Sequence[LayerState]) -> None:
        """Begin with a copy of these states."""
        for block, state in zip(self.blocks, states, strict=True):
            block.load(state)

    @torch.no_grad()
    def states(self) -> list[LayerState]:
        """Return a copy of the states."""
        return [block.state() for block in self.blocks]

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        index = torch.tensor(rows, device=self.model.head_weight.device)
        for block in self.blocks:
            block.keep(index)

    @torch.no_grad()
    def step(self, input_ids: Tensor) -> Tensor:
        """Return the logits (batch, padded_vocab) after one further id per row (batch,)."""
        return self.through(self.blocks, input_ids)

    def through(self, blocks: Sequence[Callable[[Tensor], Tensor]], input_ids: Tensor) -> Tensor:
        """Return the logits by other steps of the same blocks."""
        backbone = self.model.backbone
        residual = F.embedding(input_ids, backbone.embedding.weight)
        for block in blocks:
            residual = block(residual)
        return self._head(backbone.norm_f(residual))
