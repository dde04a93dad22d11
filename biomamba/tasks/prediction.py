"""What a model answered to one item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ANSWERED, UNPARSABLE, EMPTY = "answered", "unparsable", "empty"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer to an item.

    Attributes:
        id: The item.
        text: What was generated, or the label or option that was chosen.
        label: The label that the answer stands for; None if it stands for none.
        candidates: Further answers, best first, the first one among them.
        scores: Probability of each label or option; they add up to 1. Empty for generated answers.
        status: `answered`, `unparsable` (counts as wrong) or `empty` (nothing was generated).
        num_cut_tokens: Tokens of the item that its prompt had to leave out.
    """

    id: str
    text: str
    label: str | None = None
    candidates: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    status: str = ANSWERED
    num_cut_tokens: int = 0
