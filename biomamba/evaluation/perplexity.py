"""Held-out perplexity and bits per byte per source, with document-bootstrap intervals.

Protocol: each document is scored whole, its end-of-document token included, from a beginning-of-
document token on; a document longer than the window is cut into windows without overlap and the
state starts afresh in each.
Deviation: the released code of arXiv 2408.02600 averages the means of batches over windows that
mix documents and gives no beginning-of-document token.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from biomamba.data.batches import Batch
from biomamba.evaluation.records import ResultRecord
from biomamba.metrics.interval import Bootstrap, Statistic, bootstrap_interval
from biomamba.model.cross_entropy import token_nll
from biomamba.model.language_model import MambaLM

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class DocumentScores:
    """Per document: nll in nats, scored tokens, UTF-8 bytes of its text; each (documents,)."""

    nll: NDArray[np.float64]
    num_tokens: NDArray[np.int64]
    num_bytes: NDArray[np.int64]


@torch.inference_mode()
def score_documents(
    model: MambaLM, batches: Iterable[Batch], num_bytes: NDArray[np.int64]
) -> DocumentScores:
    """Return the scores of all documents; num_bytes is (documents,).

    batches must hold every token of every document exactly once (Batch.document says which).
    """
    device = next(model.parameters()).device
    nll = torch.zeros(len(num_bytes), dtype=torch.float64)
    num_tokens = torch.zeros(len(num_bytes), dtype=torch.int64)
    for batch in batches:
        assert batch.document is not None
        moved = batch.to(device)
        hidden, _ = model.hidden(moved.input_ids, seq_idx=moved.seq_idx)
        row_nll = token_nll(hidden.flatten(0, 1), model.head_weight, moved.targets.flatten())
        scored = batch.targets.flatten() >= 0
        documents = batch.document.flatten()[scored]
        nll.index_add_(0, documents, row_nll.cpu().double()[scored])
        num_tokens.index_add_(0, documents, torch.ones_like(documents))
    return DocumentScores(nll.numpy(), num_tokens.numpy(), num_bytes.astype(np.int64))


def _perplexity(sums: Sums) -> Sums:
    return np.exp(sums[:, 0] / sums[:, 1])


def _bits_per_byte(sums: Sums) -> Sums:
    return sums[:, 0] / (math.log(2) * sums[:, 2])


def _perplexity_change(sums: Sums) -> Sums:
    return np.expm1((sums[:, 0] - sums[:, 3]) / sums[:, 1])


def _bits_per_byte_change(sums: Sums) -> Sums:
    return (sums[:, 0] - sums[:, 3]) / (math.log(2) * sums[:, 2])


_METRICS: dict[str, tuple[str, Statistic]] = {
    "perplexity": ("exp(nats per token)", _perplexity),
    "bits_per_byte": ("bits per UTF-8 byte", _bits_per_byte),
}
_CHANGES: dict[str, tuple[str, Statistic]] = {
    "perplexity_change": ("ratio, 0 = none", _perplexity_change),
    "bits_per_byte_change": ("bits per UTF-8 byte", _bits_per_byte_change),
}


@dataclass(frozen=True)
class RecordContext:
    """What all records of one model on one source share."""

    model: str
    source: str
    split: str
    bootstrap: Bootstrap
    provenance: Mapping[str, Any]


def perplexity_records(
    context: RecordContext, scores: DocumentScores, baseline: DocumentScores | None = None
) -> list[ResultRecord]:
    """Return perplexity and bits per byte; with a baseline also the paired changes against it.

    Raises:
        ValueError: if the baseline was scored on other documents.
    """
    columns = [scores.nll, scores.num_tokens, scores.num_bytes]
    metrics = dict(_METRICS)
    if baseline is not None:
        if not np.array_equal(baseline.num_tokens, scores.num_tokens):
            raise ValueError("the baseline was scored on other documents or with another tokenizer")
        columns.append(baseline.nll)
        metrics |= _CHANGES
    table = np.stack([column.astype(np.float64) for column in columns], axis=1)
    records = []
    for metric, (unit, statistic) in metrics.items():
        interval = bootstrap_interval(table, statistic, context.bootstrap)
        records.append(
            ResultRecord(
                model=context.model,
                source=context.source,
                split=context.split,
                metric=metric,
                unit=unit,
                value=interval.value,
                low=interval.low,
                high=interval.high,
                level=context.bootstrap.level,
                num_documents=len(scores.nll),
                num_tokens=int(scores.num_tokens.sum()),
                num_bytes=int(scores.num_bytes.sum()),
                provenance=context.provenance,
            )
        )
    return records
