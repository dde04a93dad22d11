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

from biomamba.model.decoder import Decoder
from biomamba.model.language_model import MambaLM
from biomamba.model.mixer import LayerState
from biomamba.model.static_step import StaticStep
from biomamba.runtime.errors import ConfigError

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
    """A decoder whose steps are recorded; where that fails it goes on like any other.

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
        """Begin with a copy of these states."""
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
        """Go on with these rows only, in this order."""
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
            _LOG.warning("generation goes on without CUDA graphs: no step was recorded (%s)", error)
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
