"""What a paper has published: values by scale of model, and how they were made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Layers and width of the public models. Source: config.json of state-spaces/mamba2-*.
SCALES = {
    "130m": (24, 768),
    "370m": (48, 1024),
    "780m": (48, 1536),
    "1_3b": (48, 2048),
    "2_7b": (64, 2560),
}
# Facts of a protocol that can be read of a run or an evaluation of ours.
FACTS = (
    "tokens",
    "mixture",
    "packing",
    "seq_len",
    "tokens_per_step",
    "learning_rate",
    "averaged_weights",
    "vocabulary",
    "seeds",
    "test_set",
    "num_items",
    "prompt",
    "answers",
)


@dataclass(frozen=True)
class Paper:
    """One result of a paper on one test set.

    Attributes:
        title: What was measured.
        source: Where the values stand.
        subjects: Our names of the source or task; of the first the figures compare, the others are
            other test sets that are shown as such.
        values: Metric, as in our records -> scale -> published value, a share where it is one.
        protocol: How it was made, by names of FACTS.
        commands: What would run it; `{scale}` is that of the card.
        num_hits_of: Items of a share of hits, for the interval of the published value itself.
    """

    title: str
    source: str
    subjects: list[str]
    values: dict[str, dict[str, float]]
    protocol: dict[str, Any] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    num_hits_of: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.subjects or not self.values:
            raise ValueError("subjects and values must name at least one each")
        _check_names("protocol", self.protocol, FACTS)
        _check_names("num_hits_of", self.num_hits_of, tuple(self.values))
        for metric, values in self.values.items():
            _check_names(f"values.{metric}", values, tuple(SCALES))
            for scale, value in values.items():
                if not math.isfinite(value):
                    raise ValueError(f"values.{metric}.{scale} must be a number, got {value}")


def _check_names(key: str, found: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    odd = [name for name in found if name not in allowed]
    if odd:
        raise ValueError(f"{key} names {', '.join(map(str, odd))}; allowed: {', '.join(allowed)}")
