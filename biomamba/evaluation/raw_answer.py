"""What a model said to an item, before any rule makes a prediction of it.

Scores and texts are what costs time; which label follows from them can be decided again and again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from typing import Any

from biomamba.tasks.prediction import ANSWERED


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What may be known of a text that may not be kept."""

    sha256: str
    num_chars: int

    @classmethod
    def of(cls, text: str) -> "Hidden":
        """Describe a text."""
        return cls(sha256=sha256(text.encode()).hexdigest(), num_chars=len(text))


@dataclass(frozen=True, kw_only=True)
class RawAnswer:
    """What a model said to an item.

    Attributes:
        key: The id of the item; for restricted tasks a hash of it.
        log_probabilities: Of each label or option (nats, summed over its ids); all finite.
        prior_log_probabilities: The same behind a prompt whose parts are empty; empty if not asked.
        num_tokens: Ids of each label or option.
        candidates: What was written, best first; never kept of restricted tasks.
        label: What was read from the best one, if labels are written.
        status: See `Prediction`.
        stop_reason: Why the best one ended.
        num_cut_tokens: Tokens of the item that its prompt had to leave out.
        hidden: In the place of the candidates of a restricted task.
        columns: In their place too: what the answer adds to each measure.
    """

    key: str
    log_probabilities: Sequence[float] = ()
    prior_log_probabilities: Sequence[float] = ()
    num_tokens: Sequence[int] = ()
    candidates: Sequence[str] = ()
    label: str | None = None
    status: str = ANSWERED
    stop_reason: str = ""
    num_cut_tokens: int = 0
    hidden: Sequence[Hidden] = ()
    columns: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scores = (*self.log_probabilities, *self.prior_log_probabilities)
        if not all(map(math.isfinite, scores)):
            raise ValueError("log probabilities must be finite")

    def plain(self) -> dict[str, Any]:
        """Return what is not empty as values of JSON."""
        empty = {"log_probabilities", "prior_log_probabilities", "num_tokens", "candidates"}
        empty |= {"stop_reason", "hidden", "columns", "label"}
        return {name: value for name, value in asdict(self).items() if value or name not in empty}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "RawAnswer":
        """Return the answer that `plain` described; other values are left aside.

        Raises:
            ValueError: A log probability is not finite.
            TypeError: The key is missing or a value is of another shape.
        """
        known = {found.name for found in fields(cls)}
        own = {name: value for name, value in values.items() if name in known}
        if "hidden" in own:
            own["hidden"] = [Hidden(**each) for each in own["hidden"]]
        return cls(**own)


def key_of(task: str, item_id: str, *, is_restricted: bool) -> str:
    """Return what stands for an item in files."""
    return sha256(f"{task}\0{item_id}".encode()).hexdigest() if is_restricted else item_id
