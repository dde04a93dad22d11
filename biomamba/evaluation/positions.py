"""Perplexity by the position of a token in its document, in buckets that double in width.

Late positions are those of long documents only. To compare positions of the same documents, score
documents of at least so many tokens (`min_document_tokens`).
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from biomamba.data.batches import Batch
from biomamba.evaluation.records import RecordContext, ResultRecord
from biomamba.metrics.grouped import interval_over_rows
from biomamba.metrics.measure import Measure
from biomamba.metrics.perplexity import perplexity_of_sums

_NUM_BUCKETS = 32
# The first bucket holds positions 0 to 63, the second 64 to 127, the third 128 to 255, ...
_EDGES = 64 * 2 ** np.arange(_NUM_BUCKETS - 1, dtype=np.int64)


class PositionTotals:
    """Sums of nll and tokens by document and bucket.

    Args:
        num_bytes: (documents,) UTF-8 bytes of each document.
    """

    def __init__(self, num_bytes: NDArray[np.int64]) -> None:
        shape = (len(num_bytes), _NUM_BUCKETS)
        self._num_bytes = num_bytes
        self._nll = np.zeros(shape, dtype=np.float64)
        self._num_tokens = np.zeros(shape, dtype=np.int64)

    def add(
        self, document: NDArray[np.int64], position: NDArray[np.int64], nll: NDArray[np.float64]
    ) -> None:
        """Add tokens: index of their document, position in it from 0 on, nll in nats."""
        bucket = np.searchsorted(_EDGES, position, side="right")
        np.add.at(self._nll, (document, bucket), nll)
        np.add.at(self._num_tokens, (document, bucket), 1)

    def records(self, context: RecordContext) -> Iterator[ResultRecord]:
        """Yield the perplexity of every bucket that has tokens, from those documents.

        Raises:
            DataError: A perplexity is not finite.
        """
        for bucket in range(_NUM_BUCKETS):
            (reaching,) = np.nonzero(self._num_tokens[:, bucket])
            if not len(reaching):
                continue
            num_tokens = self._num_tokens[reaching, bucket]
            columns = np.stack([self._nll[reaching, bucket], num_tokens.astype(np.float64)], axis=1)
            measure = Measure("perplexity", columns, perplexity_of_sums, higher_is_better=False)
            begin = int(_EDGES[bucket - 1]) if bucket else 0
            record = context.record(
                "perplexity",
                "exp(nats per token)",
                *interval_over_rows(measure, context.bootstrap),
                num_documents=len(reaching),
                num_tokens=int(num_tokens.sum()),
                num_bytes=int(self._num_bytes[reaching].sum()),
            )
            yield replace(record, first_position=begin, end_position=int(_EDGES[bucket]))


def positions_of(batch: Batch) -> NDArray[np.int64]:
    """Return the position in its document of each token that the batch holds, row by row."""
    lengths = batch.pieces["tokens"].astype(np.int64)
    first = batch.pieces["start"].astype(np.int64)
    before = np.cumsum(lengths) - lengths
    positions: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(first - before, lengths)
    return positions
