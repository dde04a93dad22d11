"""The decoder with its steps recorded as CUDA graphs, for a GPU.

A step of a model is hundreds of small kernels, and to launch them one by one takes longer than to
run them. A graph launches them all at once. It is made for a number of rows, a power of two; rows
beyond those in use are computed for nothing, so that few graphs serve every batch. Each graph keeps
the states of its rows.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model.decoder import BlockStep, Decoder, Mamba2Step, PlainStep
from biomamba.model.language_model import MambaLM
from biomamba.model.mamba2 import LayerState
from biomamba.runtime.errors import ConfigError

# -------------------------------------------------------------------------------------------------
# Blocks that take one position of a fixed number of rows, on memory that stays where it is.
#
# What a step does is always the same operations on the same tensors: nothing depends on the data,
# no number passes to the host, and no state of Python changes. So a GPU can record a step and
# repeat it. The numbers are those of the steps of `biomamba.model.decoder`.
# -------------------------------------------------------------------------------------------------


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


# -------------------------------------------------------------------------------------------------
# The decoder with its steps recorded as CUDA graphs, for a GPU.
# -------------------------------------------------------------------------------------------------

_LOG = logging.getLogger(__name__)
_WARM_UP_STEPS = 3
CHOICES = ("auto", True, False)
Replay = Callable[[], object]


class Capture(Protocol):
    """Records work; it may run it, too, any number of times."""

    def __call__(self, work: Callable[[], None], device: torch.device) -> Replay:
        """Return what does the recorded work again, on the same memory.

        Raises:
            RuntimeError: The work cannot be recorded.
        """
        ...


class CudaCapture:
    """Records CUDA graphs, which share the memory that a step needs in between."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, work: Callable[[], None], device: torch.device) -> Replay:
        """Record the work, after it ran on a stream of its own: libraries set themselves up."""
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_STEPS):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Of this thread only: another one may be busy with the next batch.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work()
        self._pool = self._pool or graph.pool()
        return graph.replay


class GraphedDecoder(Decoder):
    """A decoder whose steps are recorded; where that fails it continues like any other.

    Args:
        is_required: Whether a step that cannot be recorded is an error.

    Raises:
        ConfigError: As of `Decoder`; later, that a step cannot be recorded.
    """

    def __init__(
        self,
        model: MambaLM,
        product_dtype: torch.dtype | None = None,
        *,
        capture: Capture | None = None,
        is_required: bool = False,
    ) -> None:
        super().__init__(model, product_dtype)
        self._capture = capture or CudaCapture()
        self._is_required = is_required
        self._steps: dict[int, tuple[StaticStep, Replay]] = {}
        self._num_rows = self._size = 0
        self.is_graphed = True

    @torch.no_grad()
    def load(self, states: Sequence[LayerState]) -> None:
        """Start with a copy of these states."""
        self._num_rows = len(states[0].conv)
        self._size = _power_of_two(self._num_rows)
        if self.is_graphed and self._recorded():
            self._step.load(states)
        else:
            super().load(states)

    def states(self) -> list[LayerState]:
        """Return a copy of the states."""
        return self._step.states(self._num_rows) if self.is_graphed else super().states()

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Continue with these rows only, in this order."""
        if not self.is_graphed:
            super().keep(rows)
            return
        index = torch.tensor(rows, device=self.model.head_weight.device)
        if _power_of_two(len(rows)) == self._size:
            self._step.move(index)
            self._num_rows = len(rows)
            return
        states = self._step.states(self._num_rows)
        self.load([LayerState(*(part[index] for part in state)) for state in states])

    @torch.no_grad()
    def step(self, input_ids: Tensor) -> Tensor:
        """Return the logits (batch, padded_vocab) after one further id per row (batch,)."""
        if not self.is_graphed:
            return super().step(input_ids)
        step, replay = self._steps[self._size]
        step.ids[: self._num_rows] = input_ids
        replay()
        return step.logits[: self._num_rows].clone()

    @property
    def _step(self) -> StaticStep:
        return self._steps[self._size][0]

    def _recorded(self) -> bool:
        """Record a step of so many rows if there is none; say whether there is one now."""
        if self._size in self._steps:
            return True
        step, device = StaticStep(self, self._size), self.model.head_weight.device
        try:
            self._steps[self._size] = step, self._capture(step, device)
        except RuntimeError as error:
            if self._is_required:
                raise ConfigError(
                    "generation.cuda_graph=true, but a step of the model cannot be recorded "
                    f"({error}): set generation.cuda_graph=auto, which then goes without"
                ) from error
            _LOG.warning(
                "generation continues without CUDA graphs: no step was recorded (%s)", error
            )
            self.is_graphed = False
            self._steps.clear()
        return self.is_graphed


def make_decoder(
    model: MambaLM,
    product_dtype: torch.dtype | None = None,
    cuda_graph: bool | str = "auto",
) -> Decoder:
    """Return a decoder with CUDA graphs (`true`, and `auto` on a GPU) or without.

    Raises:
        ConfigError: Graphs are asked for, but the model is on no GPU; or as of `Decoder`.
    """
    device = model.head_weight.device
    if device.type != "cuda":
        if cuda_graph is True:
            raise ConfigError(
                f"generation.cuda_graph=true: the model is on {device}, and only a GPU has graphs; "
                "set generation.cuda_graph=auto"
            )
        _LOG.info("generation without CUDA graphs: the model is on %s", device)
        return Decoder(model, product_dtype)
    if cuda_graph is False:
        return Decoder(model, product_dtype)
    return GraphedDecoder(model, product_dtype, is_required=cuda_graph is True)


def _power_of_two(number: int) -> int:
    """Return the smallest one that is not below the number."""
    return 1 << max(number - 1, 0).bit_length()
