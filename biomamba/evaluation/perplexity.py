"""Perplexity and bits per byte of held-out documents, per source and by position."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from biomamba.data.batches import Batch
from biomamba.data.store.reader import TokenSplit
from biomamba.data.tokenizer import load_tokenizer
from biomamba.evaluation.models.causal import TransformersCausal
from biomamba.evaluation.models.loading import Row
from biomamba.evaluation.records import RecordContext, ResultRecord
from biomamba.metrics.measure import Measure, Statistic, interval_over_rows
from biomamba.metrics.perplexity import perplexity_of_sums
from biomamba.model.language_model import MambaLM
from biomamba.model.loss import token_nll
from biomamba.model.segments import Segments, hidden_by_segment
from biomamba.runtime.errors import ConfigError, DataError

# -------------------------------------------------------------------------------------------------
# Perplexity by the position of a token in its document, in buckets that double in width.
#
# Late positions are those of long documents only. To compare positions of the same documents, score
# documents of at least so many tokens (`min_document_tokens`).
# -------------------------------------------------------------------------------------------------

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


# -------------------------------------------------------------------------------------------------
# Held-out perplexity and bits per byte per source, with document-bootstrap intervals.
#
# Protocol: each document is scored whole, its end-of-document token included, from a beginning-of-
# document token on; a document longer than the window is cut into windows without overlap and the
# state starts afresh in each.
# Deviation: the released code of arXiv 2408.02600 averages the means of batches over windows that
# mix documents and gives no beginning-of-document token.
# -------------------------------------------------------------------------------------------------

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


# -------------------------------------------------------------------------------------------------
# Score the documents of token stores as texts, with a model that has another tokenizer.
#
# The tokens of a store are decoded and encoded again. As with our models each document is scored
# whole, with what ends a text, in windows without overlap; the first one starts as texts of the
# model do, a later one with the token before it (after the mark that the tokenizer puts before any
# text). Tokens are those of the model, so a figure per token would not compare; bits per byte do:
# the same texts, whose bytes were counted when the store was made.
#
# A tokenizer that cannot give a text back (unknown characters, lower case, lost spaces) codes a
# simpler text, in too few bits. Such documents are counted.
# -------------------------------------------------------------------------------------------------

_DOCUMENTS_AT_ONCE = 64


@dataclass(frozen=True)
class TextScores:
    """Scores of documents, and how many of them the tokenizer could not give back."""

    scores: DocumentScores
    num_lossy: int


class StoredTexts:
    """The documents of stores as texts.

    Raises:
        DataError: The tokenizer beside a store is missing or not the one that it was made with.
    """

    def __init__(self, documents: TokenSplit, store: str, fingerprint: str) -> None:
        folder = Path(store).parent
        self._documents, self._tokenizer = documents, load_tokenizer(folder)
        if self._tokenizer.fingerprint != fingerprint:
            raise DataError(f"the tokenizer in {folder} is not the one that {store} was made with")

    @property
    def num_bytes(self) -> NDArray[np.int64]:
        """(documents,) UTF-8 bytes of each document."""
        return self._documents.num_bytes

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, document: int) -> str:
        return self._tokenizer.decode(self._documents.tokens(document)[:-1].tolist())


def score_texts(
    model: TransformersCausal,
    texts: StoredTexts,
    *,
    window_tokens: int,
    description: str | None = None,
) -> TextScores:
    """Return the scores of texts; `window_tokens` are of the model, whose tokens are counted.

    Raises:
        ConfigError: The model cannot read such a window.
    """
    check_window(model, window_tokens)
    begins: Sequence[int] = range(0, len(texts), _DOCUMENTS_AT_ONCE)
    shown = track(begins, description, console=Console(stderr=True)) if description else begins
    nll, num_tokens, num_lossy = list[float](), list[int](), 0
    for begin in shown:
        some = [texts[n] for n in range(begin, min(begin + _DOCUMENTS_AT_ONCE, len(texts)))]
        encoded = model.tokenizer.encode_batch(some)
        decoded = [model.tokenizer.decode(ids) for ids in encoded]
        num_lossy += sum(a.strip() != b.strip() for a, b in zip(some, decoded, strict=True))
        ends = [] if model.eos_id is None else [model.eos_id]
        documents = [[*ids, *ends] for ids in encoded]
        nll += _nll(model, documents, window_tokens)
        num_tokens += [len(ids) for ids in documents]
    counts = np.array(num_tokens, dtype=np.int64)
    return TextScores(DocumentScores(np.array(nll), counts, texts.num_bytes), num_lossy)


def check_window(model: TransformersCausal, window_tokens: int) -> None:
    """Raise ConfigError if a model cannot read such a window after what is before it."""
    if model.max_tokens is None:
        return
    before = max(len(model.first_ids), len(model.tokenizer.first_ids) + 1)
    # The last token of a window is not read.
    most = model.max_tokens + len(model.first_ids) - before + 1
    if window_tokens > most:
        raise ConfigError(
            f"evaluation.seq_len={window_tokens}: {model.label} ({model.checkpoint}) reads windows "
            f"of at most {most} tokens; lower it, for all models that are compared"
        )


def _nll(
    model: TransformersCausal, documents: Sequence[Sequence[int]], window_tokens: int
) -> list[float]:
    """Return the nll of each document, in nats."""
    rows, owner = list[Row](), list[int]()
    for number, ids in enumerate(documents):
        for begin in range(0, len(ids), window_tokens):
            window = list(ids[begin : begin + window_tokens])
            later = [*model.tokenizer.first_ids, ids[begin - 1]]
            before = later if begin else list(model.first_ids)
            wanted = [(len(before) - 1 + n, token) for n, token in enumerate(window)]
            rows.append(Row((), [*before, *window[:-1]], wanted))
            owner.append(number)
    totals = [0.0] * len(documents)
    for number, values in zip(owner, model.log_probabilities(rows), strict=True):
        totals[number] -= sum(values)
    return totals
