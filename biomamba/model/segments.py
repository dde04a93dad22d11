"""Rows of any length in constant memory: one segment after the other, the states carried along.

Without gradients this is the whole pass, to rounding. In training no gradient passes from one
segment to the one before (truncated back-propagation through time), but the states do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from biomamba.model.language_model import MambaLM
from biomamba.model.mamba2 import LayerState
from biomamba.runtime.numbers import check_whole

STATES = ("reset", "carry", "zero")


@dataclass(frozen=True)
class Segments:
    """How a row is cut, and what each segment starts with.

    Attributes:
        tokens: Positions of a segment; the last one of a row may be shorter.
        state: `reset` continues with the state of the segment before and resets it where a document
            starts, as an uncut row does; `carry` lets it pass from one document to the next too;
            `zero` starts every segment with an empty state.
    """

    tokens: int
    state: str = "reset"

    def __post_init__(self) -> None:
        check_whole("segment_tokens", self.tokens)
        if self.state not in STATES:
            raise ValueError(f"state={self.state!r}: must be one of {', '.join(STATES)}")

    @classmethod
    def of(cls, tokens: int | None, state: str) -> "Segments | None":
        """Return the segments that a configuration asks for; None for uncut rows, which reset.

        Raises:
            ValueError: A value is not allowed; the message names `segment_tokens` or
                `segment_state`.
        """
        try:
            asked = cls(1 if tokens is None else tokens, state)
        except ValueError as error:
            raise ValueError(f"segment_{error}") from error
        if tokens is None and state != "reset":
            raise ValueError(f"segment_state={state!r}: needs segment_tokens, which is None")
        return None if tokens is None else asked

    def cut(self, length: int) -> list[slice]:
        """Return the positions of each segment of a row."""
        return [
            slice(start, min(start + self.tokens, length))
            for start in range(0, length, self.tokens)
        ]


def hidden_by_segment(
    model: MambaLM, input_ids: Tensor, seq_idx: Tensor, segments: Segments
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the positions of each segment and its hidden vectors (batch, positions, d_model).

    A segment is computed when it is asked for; whoever needs its gradients calls backward before
    continuing, so that only one segment is in memory. Arguments as of `MambaLM.hidden`.
    """
    states: Sequence[LayerState] | None = None
    length = input_ids.shape[1]
    for here in segments.cut(length):
        if states is not None and segments.state == "reset" and here.start:
            continued = seq_idx[:, here.start] == seq_idx[:, here.start - 1]
            states = [_keep(state, continued) for state in states]
        documents = None if segments.state == "carry" else seq_idx[:, here]
        goes_on = here.stop < length and segments.state != "zero"
        hidden, after = model.hidden(input_ids[:, here], documents, states, keeps_states=goes_on)
        states = [_detached(state) for state in after] if goes_on else None
        del after
        yield here, hidden


def _keep(state: LayerState, rows: Tensor) -> LayerState:
    """Empty the states of the other rows; a product would keep what is not finite."""
    return LayerState(*(torch.where(_like(rows, part), part, 0) for part in state))


def _like(rows: Tensor, part: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (part.ndim - 1))


def _detached(state: LayerState) -> LayerState:
    return LayerState(*(part.detach() for part in state))
