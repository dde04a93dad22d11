"""What a model must be able to do to be measured."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from biomamba.timing.settings import Point

Prompts = Sequence[Sequence[int]]


class Continuation(Protocol):
    """Rows that are being continued behind their context."""

    def reset(self) -> None:
        """Go back to the end of the context, as far as it makes a difference."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """Return the most likely next id of each row (rows,) behind these ids (rows,)."""
        ...

    def held_bytes(self) -> int:
        """Count the bytes of weights and of what is kept of the rows."""
        ...


class Subject(Protocol):
    """A model that is measured."""

    @property
    def name(self) -> str:
        """In tables and files."""
        ...

    @property
    def module(self) -> nn.Module:
        """Its weights."""
        ...

    @property
    def shape(self) -> Mapping[str, int | bool | str]:
        """Its sizes by name, and what computes it."""
        ...

    @property
    def num_parameters(self) -> int:
        """Count its trainable numbers; a tied head counts once."""
        ...

    @property
    def head_weight(self) -> Tensor:
        """Matrix (rows, d_model) that turns hidden vectors into logits."""
        ...

    def hidden(self, ids: Tensor) -> Tensor:
        """Return the hidden vectors (rows, length, d_model) behind the last norm."""
        ...

    def first_ids(self, prompts: Prompts, new_tokens: int) -> Tensor:
        """Read the prompts and return the most likely next id of each (rows,).

        Whatever `new_tokens` more ids will need is kept as it would be to go on.
        """
        ...

    def begin(self, prompts: Prompts, new_tokens: int) -> tuple[Tensor, Continuation]:
        """Read the prompts; return the most likely next ids and what continues behind them."""
        ...

    def operations(self, point: Point, new_tokens: int) -> float:
        """Count the useful operations of a measurement: products, and scan or attention."""
        ...
