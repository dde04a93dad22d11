"""What a model scored on the items of one source or task, ready to be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from biomamba.evaluation.document_scores import StoredScores
from biomamba.evaluation.perplexity import document_measures
from biomamba.metrics.measure import Measure
from biomamba.runtime.errors import DataError

# What depends on the tokenizer: tokens are other pieces of the text for another one.
PER_TOKEN = frozenset({"perplexity"})


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The figures of one model on one source or task.

    Attributes:
        subject: Name of the source or task.
        protocol: How it was scored: what must be equal for figures to be compared.
        tokenizer: Fingerprint of the tokenizer that the figures depend on; None where they do not.
        items: What was scored, one name each, all different.
        units: What a bootstrap draws, for each item.
        measures: Figures of these items in this order.
        filtered: Whether the items of a task were kept out of the training data of the model (see
            TaskRecord); None for documents of a source.
    """

    subject: str
    protocol: Mapping[str, Any]
    tokenizer: str | None
    items: Sequence[str]
    units: Sequence[str]
    measures: Sequence[Measure]
    filtered: str | None = None

    def measure(self, metric: str) -> Measure:
        """Return the figure of a name."""
        return next(found for found in self.measures if found.name == metric)

    def in_order_of(self, other: "Scored") -> "Scored":
        """Return the same with the items in the order of those of another one.

        Raises:
            DataError: The items are others.
        """
        if list(self.items) == list(other.items):
            return self
        place = {item: index for index, item in enumerate(self.items)}
        shared = sum(item in place for item in other.items)
        if not shared == len(self.items) == len(other.items):
            raise DataError(
                f"{self.subject}: not the same items: {len(other.items):,} and "
                f"{len(self.items):,}, {shared:,} of them in both; evaluate both on the same data "
                f"with the same limits"
            )
        order = [place[item] for item in other.items]
        return replace(
            self,
            items=list(other.items),
            units=[self.units[index] for index in order],
            measures=[replace(found, columns=found.columns[order]) for found in self.measures],
        )


def scored_documents(stored: StoredScores) -> Scored:
    """Return perplexity and bits per byte of stored documents; a document is key and bytes."""
    keys = [f"{key:016x}" for key in stored.keys.tolist()]
    sizes = stored.scores.num_bytes.tolist()
    # Documents of two stores may share key and size, and are then told apart by their place.
    copies = _copies(list(zip(keys, sizes, strict=True)))
    return Scored(
        subject=stored.origin.source,
        protocol={"split": stored.origin.split, **stored.origin.protocol},
        tokenizer=stored.origin.tokenizer,
        items=[f"{k}:{s}:{c}" for k, s, c in zip(keys, sizes, copies, strict=True)],
        units=keys,
        measures=document_measures(stored.scores),
    )


def bits_per_byte(scored: Scored) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return bits per byte of the single documents (documents,); nan for one without text."""
    measure = scored.measure("bits_per_byte")
    with np.errstate(divide="ignore", invalid="ignore"):
        values = measure.statistic(measure.columns)
    return np.where(measure.columns[:, 2] > 0, values, np.nan)


def _copies(names: Sequence[Any]) -> list[int]:
    """Return how often each name came before."""
    seen: dict[Any, int] = {}
    found = []
    for name in names:
        found.append(seen.get(name, 0))
        seen[name] = found[-1] + 1
    return found
