"""Held-out perplexity and bits per byte per source, with document-bootstrap intervals.

Protocol: each document is scored whole, its end-of-document token included, from a beginning-of-
document token on; a document longer than the window is cut into windows without overlap and the
state starts afresh in each.
Deviation: the released code of arXiv 2408.02600 averages the means of batches over windows that
mix documents and gives no beginning-of-document token.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomamba.data.batches import Batch
from biomamba.evaluation.positions import PositionTotals, positions_of
from biomamba.evaluation.records import RecordContext, ResultRecord
from biomamba.metrics.grouped import interval_over_rows
from biomamba.metrics.interval import Statistic
from biomamba.metrics.measure import Measure
from biomamba.metrics.perplexity import perplexity_of_sums
from biomamba.model.cross_entropy import token_nll
from biomamba.model.language_model import MambaLM
from biomamba.model.segments import Segments, hidden_by_segment

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class DocumentScores:
    """Per document: nll in nats, scored tokens, UTF-8 bytes of its text; each (documents,)."""

    nll: NDArray[np.float64]
    num_tokens: NDArray[np.int64]
    num_bytes: NDArray[np.int64]


@torch.inference_mode()
def score_documents(
    model: MambaLM,
    batches: Iterable[Batch],
    num_bytes: NDArray[np.int64],
    *,
    segments: Segments | None = None,
    positions: PositionTotals | None = None,
) -> DocumentScores:
    """Return the scores of all documents; num_bytes is (documents,).

    batches must hold every token of every document exactly once (Batch.document says which). With
    `segments` a row takes the memory of one of them; `positions` takes in every token.
    """
    device = next(model.parameters()).device
    nll = torch.zeros(len(num_bytes), dtype=torch.float64)
    num_tokens = torch.zeros(len(num_bytes), dtype=torch.int64)
    for batch in batches:
        assert batch.document is not None
        is_scored = batch.targets >= 0
        row_nll = _row_nll(model, batch.to(device), segments).cpu().double()[is_scored]
        documents = batch.document[is_scored]
        nll.index_add_(0, documents, row_nll)
        num_tokens.index_add_(0, documents, torch.ones_like(documents))
        if positions is not None:
            positions.add(documents.numpy(), positions_of(batch), row_nll.numpy())
    return DocumentScores(nll.numpy(), num_tokens.numpy(), num_bytes.astype(np.int64))


def _row_nll(model: MambaLM, batch: Batch, segments: Segments | None) -> Tensor:
    """Return the nll of every position (batch, length)."""
    segments = segments or Segments(batch.input_ids.shape[1])
    parts = hidden_by_segment(model, batch.input_ids, batch.seq_idx, segments)
    return torch.cat(
        [
            token_nll(
                hidden.flatten(0, 1), model.head_weight, batch.targets[:, here].flatten()
            ).view(len(hidden), -1)
            for here, hidden in parts
        ],
        dim=1,
    )


def _bits_per_byte(sums: Sums) -> Sums:
    return sums[:, 0] / (math.log(2) * sums[:, 2])


def _perplexity_change(sums: Sums) -> Sums:
    with np.errstate(over="ignore"):
        return np.expm1((sums[:, 0] - sums[:, 3]) / sums[:, 1])


def _bits_per_byte_change(sums: Sums) -> Sums:
    return (sums[:, 0] - sums[:, 3]) / (math.log(2) * sums[:, 2])


_METRICS: dict[str, tuple[str, Statistic]] = {
    "perplexity": ("exp(nats per token)", perplexity_of_sums),
    "bits_per_byte": ("bits per UTF-8 byte", _bits_per_byte),
}
_CHANGES: dict[str, tuple[str, Statistic]] = {
    "perplexity_change": ("ratio, 0 = none", _perplexity_change),
    "bits_per_byte_change": ("bits per UTF-8 byte", _bits_per_byte_change),
}


def document_measures(scores: DocumentScores) -> list[Measure]:
    """Return perplexity and bits per byte as sums over documents."""
    columns = np.stack([scores.nll, scores.num_tokens, scores.num_bytes], axis=1).astype(np.float64)
    return [
        Measure(name, columns, statistic, higher_is_better=False)
        for name, (_, statistic) in _METRICS.items()
    ]


def perplexity_records(
    context: RecordContext,
    scores: DocumentScores,
    baseline: DocumentScores | None = None,
    *,
    per_token: bool = True,
    change_per_token: bool = True,
) -> list[ResultRecord]:
    """Return perplexity and bits per byte; with a baseline also the paired changes against it.

    Without `per_token` the perplexity is left out, without `change_per_token` its change: what is
    said of tokens means nothing beside a model with other tokens.

    Raises:
        ValueError: if the baseline was scored on other documents or, where figures per token are
            compared, with another tokenizer.
        DataError: a figure is not finite.
    """
    columns = [scores.nll, scores.num_tokens, scores.num_bytes]
    metrics = dict(_METRICS)
    if baseline is not None:
        counts = "num_tokens" if change_per_token else "num_bytes"
        if not np.array_equal(getattr(baseline, counts), getattr(scores, counts)):
            raise ValueError("the baseline was scored on other documents or with another tokenizer")
        columns.append(baseline.nll)
        metrics |= _CHANGES
    if not per_token:
        del metrics["perplexity"]
    if not change_per_token:
        metrics.pop("perplexity_change", None)
    table = np.stack([column.astype(np.float64) for column in columns], axis=1)
    records = []
    for metric, (unit, statistic) in metrics.items():
        measure = Measure(metric, table, statistic, higher_is_better=False)
        records.append(
            context.record(
                metric,
                unit,
                *interval_over_rows(measure, context.bootstrap),
                num_documents=len(scores.nll),
                num_tokens=int(scores.num_tokens.sum()),
                num_bytes=int(scores.num_bytes.sum()),
            )
        )
    return records
