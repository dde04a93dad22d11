"""What a run will make of each source: how it is packed, and how often it is repeated."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from biomamba.data.batches import PlannedSource
from biomamba.data.budget import TokenBudget
from biomamba.data.mixed_rows import MixedRows
from biomamba.runtime.errors import ConfigError


@dataclass(frozen=True)
class Exposure:
    """One source in one run.

    Attributes:
        num_documents: Documents of the training split.
        num_tokens: Their tokens, end-of-document tokens included: one epoch.
        num_dropped_tokens: Tokens that the packing leaves out; no part of an epoch.
        num_cut_documents: Documents that are not whole in one row.
        padding_ratio: Share of the positions of its rows that hold no token.
        num_rows_drawn: Rows that the run takes from it.
        epochs: How often the run passes over it.
        num_target_tokens: Tokens of one epoch that are predicted: all but what is only read, as
            prompts.
    """

    num_documents: int
    num_tokens: int
    num_dropped_tokens: int
    num_cut_documents: int
    padding_ratio: float
    num_rows_drawn: int
    epochs: float
    num_target_tokens: int


def exposures(
    sources: Mapping[str, PlannedSource], rows: MixedRows, budget: TokenBudget
) -> dict[str, Exposure]:
    """Return the exposure of every source; one without a share has neither rows nor epochs."""
    drawn = rows.rows_drawn(budget.num_steps * budget.sequences_per_step)
    return {
        name: _exposure(source, drawn[name], budget.seq_len) for name, source in sources.items()
    }


def check_repetition(found: Mapping[str, Exposure], max_repetition: float | None) -> None:
    """Raise ConfigError naming every source that the run would pass over too often."""
    if max_repetition is None:
        return
    repeated = {
        name: round(exposure.epochs, 2)
        for name, exposure in found.items()
        if exposure.epochs > max_repetition
    }
    if repeated:
        raise ConfigError(
            f"max_repetition is {max_repetition}, but the run passes over its sources this often: "
            f"{repeated}; lower max_tokens or their weights, add stores, or raise max_repetition"
        )


def _exposure(source: PlannedSource, num_rows_drawn: int, seq_len: int) -> Exposure:
    plan, lengths = source.plan, source.split.lengths
    num_planned = int(plan.piece_length.sum())
    is_planned = plan.num_rows > 0  # a source without a share is not
    pieces = np.bincount(plan.piece_document, minlength=len(lengths))
    is_dropped = (lengths > seq_len) & (pieces == 1)
    num_tokens = num_planned if is_planned else int(lengths.sum())
    return Exposure(
        num_documents=len(source.split),
        num_tokens=num_tokens,
        num_dropped_tokens=int(lengths.sum()) - num_tokens,
        num_cut_documents=int(((pieces > 1) | is_dropped).sum()),
        padding_ratio=1 - num_planned / (plan.num_rows * seq_len) if is_planned else 0.0,
        num_rows_drawn=num_rows_drawn,
        epochs=num_rows_drawn / plan.num_rows if is_planned else 0.0,
        num_target_tokens=num_tokens - _num_read(source),
    )


def _num_read(source: PlannedSource) -> int:
    """Count the tokens of one epoch that are no targets."""
    learned, plan = source.split.supervision, source.plan
    if learned is None:
        return 0
    if not plan.num_rows:
        return int(learned.num_context.sum())
    pieces = learned.of_pieces(plan.piece_document, plan.piece_start, plan.piece_length)
    return int(pieces.num_context.sum())
