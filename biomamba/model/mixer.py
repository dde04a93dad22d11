"""What a block asks of its mixer, whichever model it belongs to."""

from typing import NamedTuple, Protocol

from torch import Tensor


class LayerState(NamedTuple):
    """What one block remembers of the positions so far."""

    conv: Tensor  # (batch, channels, d_conv)
    ssm: Tensor  # see the glossary of biomamba.model.ssd; float32 or float64


class Mixer(Protocol):
    """Mixes the positions of a document, each with those before it only."""

    def __call__(
        self, u: Tensor, documents: Tensor | None = None, state: LayerState | None = None
    ) -> tuple[Tensor, LayerState]:
        """Mix u (batch, length, d_model); return the output and the state after the length.

        `documents` (batch, length) as of `document_numbers`: nothing passes where they change.
        `state` (None: empty) belongs to the document at position 0.
        """
        ...

    def step(self, u: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Mix one further position u (batch, d_model)."""
        ...

    def initial_state(self, batch_size: int) -> LayerState:
        """Return the empty state before the first position."""
        ...
