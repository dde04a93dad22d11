"""Document scores and their records."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from biomamba.data.batches import Batch
from biomamba.evaluation.perplexity import (
    DocumentScores,
    RecordContext,
    perplexity_records,
    score_documents,
)
from biomamba.evaluation.records import format_records
from biomamba.metrics.measure import NO_SCATTER, ONE_GROUP, Bootstrap
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import DataError

VOCAB, EOD = 16, 0
CONTEXT = RecordContext("base", "pubmed", "test", Bootstrap(num_resamples=50), {"commit": "abc"})


def make_batch(documents: list[list[int]], length: int) -> Batch:
    """One row that holds the documents one after the other."""
    shape = (1, length)
    row: dict[str, Any] = {
        "input_ids": torch.full(shape, EOD),
        "targets": torch.full(shape, -100),
        "seq_idx": torch.full(shape, len(documents), dtype=torch.int32),
        "document": torch.full(shape, -1),
    }
    begin = 0
    for number, tokens in enumerate(documents):
        here = slice(begin, begin + len(tokens) + 1)
        row["input_ids"][0, here] = torch.tensor([EOD, *tokens])
        row["targets"][0, here] = torch.tensor([*tokens, EOD])
        row["seq_idx"][0, here] = number
        row["document"][0, here] = number
        begin = here.stop
    zeros = torch.zeros(1, dtype=torch.int64)
    return Batch(**row, source=zeros, num_bytes=zeros, row_ids=zeros)


def test_a_packed_document_scores_as_if_it_were_alone() -> None:
    config = Mamba2Config(d_model=16, n_layer=2, vocab_size=VOCAB, d_state=4, headdim=8)
    model = MambaLM(config, ChunkedScan(chunk_size=4))
    documents = [[3, 1, 4, 1, 5], [9, 2, 6]]
    packed = make_batch(documents, length=12)
    num_bytes = np.array([10, 7])
    scores = score_documents(model, [packed], num_bytes)
    for number, tokens in enumerate(documents):
        with torch.no_grad():
            logits = model(torch.tensor([[EOD, *tokens]]))[0]
        alone = F.cross_entropy(logits, torch.tensor([*tokens, EOD]), reduction="sum")
        assert scores.nll[number] == pytest.approx(alone.item(), rel=1e-5)
    assert scores.num_tokens.tolist() == [6, 4]
    assert scores.num_bytes.tolist() == [10, 7]


def test_windows_of_one_document_add_up() -> None:
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=VOCAB, d_state=4, headdim=8)
    model = MambaLM(config, ChunkedScan(chunk_size=4))
    batch = make_batch([[3, 1, 4]], length=4)
    once = score_documents(model, [batch], np.array([5]))
    twice = score_documents(model, [batch, batch], np.array([5]))
    assert twice.nll[0] == pytest.approx(2 * once.nll[0])
    assert twice.num_tokens.tolist() == [8]


def make_scores(nll: list[float]) -> DocumentScores:
    return DocumentScores(np.array(nll), np.array([10, 30]), np.array([40, 120]))


def test_records_hold_ratios_of_sums() -> None:
    records = {r.metric: r for r in perplexity_records(CONTEXT, make_scores([20.0, 60.0]))}
    # 80 nats over 40 tokens and 160 bytes.
    assert records["perplexity"].value == pytest.approx(math.exp(2))
    assert records["bits_per_byte"].value == pytest.approx(0.5 / math.log(2))
    assert set(records) == {"perplexity", "bits_per_byte"}
    record = records["perplexity"]
    assert (record.num_documents, record.num_tokens, record.num_bytes) == (2, 40, 160)
    assert (record.model, record.source, record.split) == ("base", "pubmed", "test")


def test_changes_are_paired() -> None:
    baseline, adapted = make_scores([20.0, 60.0]), make_scores([15.0, 45.0])
    records = {r.metric: r for r in perplexity_records(CONTEXT, adapted, baseline)}
    change = records["perplexity_change"]
    assert change.value == pytest.approx(math.exp(-0.5) - 1)
    # Both documents lose half a nat per token, so that any draw of them gives the same change.
    assert math.isnan(change.low)
    assert math.isnan(change.high)
    assert {record.method for record in records.values()} == {NO_SCATTER}
    saved = records["bits_per_byte_change"]
    assert saved.value == pytest.approx(-0.125 / math.log(2))


def test_a_baseline_of_other_documents_is_refused() -> None:
    other = DocumentScores(np.zeros(2), np.array([10, 31]), np.array([40, 120]))
    with pytest.raises(ValueError, match="other documents or with another tokenizer"):
        perplexity_records(CONTEXT, make_scores([1.0, 1.0]), other)


def test_one_document_has_figures_and_no_interval() -> None:
    alone = DocumentScores(np.array([20.0]), np.array([10]), np.array([40]))
    records = perplexity_records(CONTEXT, alone, alone)
    assert records[0].value == pytest.approx(math.exp(2))
    lines = [json.loads(line) for line in format_records(records).splitlines()]
    assert [(line["low"], line["high"], line["method"]) for line in lines] == [
        (None, None, ONE_GROUP)
    ] * 4


@pytest.mark.parametrize("nll", [math.nan, math.inf, 710.0 * 40])  # exp(710) overflows
def test_a_perplexity_that_is_not_finite_is_an_error(nll: float) -> None:
    with pytest.raises(DataError, match="perplexity of base on pubmed is not finite"):
        perplexity_records(CONTEXT, make_scores([0.0, nll]))


def test_a_resample_that_overflows_leaves_the_figure_without_an_interval() -> None:
    # 1,000 nats per token on the second document alone, 500 on both together.
    scores = DocumentScores(np.array([0.0, 10_000.0]), np.array([10, 10]), np.array([40, 40]))
    found, bits = perplexity_records(CONTEXT, scores)
    assert found.value == pytest.approx(math.exp(500))
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert "null" in format_records([found])
    assert bits.value == pytest.approx(10_000 / (80 * math.log(2)))
