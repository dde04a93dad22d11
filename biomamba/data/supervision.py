"""What is learned of documents that are not learned whole, as prompts with answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Supervision:
    """What is learned of documents, or of pieces of them.

    Attributes:
        num_context: (documents,); so many first tokens are read, but are no targets.
        weights: (documents,) float32; weight of every target of a document in the loss.
    """

    num_context: Ints
    weights: NDArray[np.float32]

    @classmethod
    def of_nothing(cls) -> "Supervision":
        """Return what is learned of no documents."""
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))

    @classmethod
    def merge(cls, parts: "Sequence[Supervision | None]", order: Ints) -> "Supervision | None":
        """Put parts one behind the other, in another order; None if all is learned of all."""
        known = [part for part in parts if part is not None]
        if not known:
            return None
        assert len(known) == len(parts), "some sources say what is learned, others do not"
        return cls(
            np.concatenate([part.num_context for part in known])[order],
            np.concatenate([part.weights for part in known])[order],
        )

    def of_pieces(self, documents: Ints, starts: Ints, lengths: Ints) -> "Supervision":
        """Return what is learned of pieces of documents."""
        num_context = np.clip(self.num_context[documents] - starts, 0, lengths)
        return Supervision(num_context, self.weights[documents])

    def token_weights(self, lengths: Ints) -> NDArray[np.float32]:
        """Return the weight of each token of documents that stand one behind another.

        It is 0 exactly at the tokens that are only read.

        Args:
            lengths: (documents,); tokens of each document.
        """
        begins = np.cumsum(lengths) - lengths
        within = np.arange(lengths.sum()) - np.repeat(begins, lengths)
        is_read = within < np.repeat(self.num_context, lengths)
        return np.where(is_read, np.float32(0), np.repeat(self.weights, lengths))
