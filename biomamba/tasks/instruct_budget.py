"""The size of a fine-tuning run: in epochs of its tasks, or in tokens as elsewhere."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from biomamba.data.budget import TokenBudget
from biomamba.data.mixture import Mixture, SourceSize
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_number

# The shares hold after so many rows at the latest.
_MIN_BLOCK_ROWS = 1_000
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class InstructBudget:
    """The size of a run, of which one of epochs and max_tokens is given.

    Attributes:
        epochs: How often the tasks are passed over; a step that is begun is completed.
        max_tokens: Positions of the whole run.
        tokens_per_step: Positions of one optimizer step over all ranks.
        seq_len: Positions of a row.
        micro_batch_size: Rows per rank in one forward pass.
    """

    epochs: float | None = None
    max_tokens: int | None = None
    tokens_per_step: int
    seq_len: int
    micro_batch_size: int

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.max_tokens is None):
            raise ConfigError(
                f"epochs is {self.epochs} and max_tokens is {self.max_tokens}; set one of them and "
                "the other to null"
            )
        check_number("epochs", self.epochs, above=0, optional=True)
        self.of(1)

    def of(self, rows_per_epoch: int) -> TokenBudget:
        """Return the budget of a run whose epoch has so many rows."""
        max_tokens = self.max_tokens
        if max_tokens is None:
            assert self.epochs is not None
            rows_per_step = max(1, self.tokens_per_step // max(1, self.seq_len))
            steps = math.ceil(self.epochs * rows_per_epoch / rows_per_step - _ROUNDING)
            max_tokens = max(1, steps) * self.tokens_per_step
        return TokenBudget(max_tokens, self.tokens_per_step, self.seq_len, self.micro_batch_size)


def epoch_of(
    sizes: Mapping[str, SourceSize], shares: Mapping[str, float] | None
) -> tuple[int, Mixture]:
    """Return the rows of an epoch, and the mixture of the tasks.

    An epoch without shares is every sample once. With shares it goes on until every task that has
    one was passed over, by when the smaller ones were repeated.
    Source: arXiv 2408.02600 repeats its smaller set until it has its share.

    Args:
        sizes: Size of each task, 0 of those that are only validated.
        shares: Part of the samples that each task gives; None: as many as it has.
    """
    if shares is None:
        total = sum(size.num_rows for size in sizes.values())
        weights = {name: size.num_rows / total for name, size in sizes.items()}
        return total, Mixture(weights, "sequences", total)
    rows = {
        name: share / sizes[name].per_row("documents")
        for name, share in shares.items()
        if share > 0
    }
    needed = max(sizes[name].num_rows * sum(rows.values()) / part for name, part in rows.items())
    epoch = math.ceil(needed - _ROUNDING)
    block = epoch * math.ceil(_MIN_BLOCK_ROWS / epoch)
    return epoch, Mixture(dict(shares), "documents", block)
