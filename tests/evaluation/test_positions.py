"""Perplexity by position in the document."""

import math

import numpy as np
import pytest
import torch

from biomamba.data.batches import PIECE_DTYPE, Batch
from biomamba.evaluation.perplexity import PositionTotals, positions_of
from biomamba.evaluation.records import RecordContext
from biomamba.metrics.measure import BOOTSTRAP, TOO_FEW, Bootstrap

CONTEXT = RecordContext("base", "pubmed", "test", Bootstrap(num_resamples=20), {"seed": 1})


def test_every_token_counts_in_the_bucket_of_its_position() -> None:
    totals = PositionTotals(np.array([10, 500]))
    # A document of 70 tokens and one of 600, with one nat in the first bucket, then two, ...
    for document, length in enumerate((70, 600)):
        position = np.arange(length)
        nats = np.where(position < 64, 1.0, np.floor(np.log2(np.maximum(position, 1) / 64)) + 2)
        totals.add(np.full(length, document), position, nats)
    records = list(totals.records(CONTEXT))

    spans = [(r.first_position, r.end_position) for r in records]
    assert spans == [(0, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    assert [r.num_documents for r in records] == [2, 2, 1, 1, 1]
    assert [r.num_tokens for r in records] == [128, 6 + 64, 128, 256, 88]
    assert [r.num_bytes for r in records] == [510, 510, 500, 500, 500]
    assert [r.value for r in records] == pytest.approx([math.exp(n) for n in range(1, 6)])
    assert {r.metric for r in records} == {"perplexity"}


def test_the_interval_is_over_documents() -> None:
    totals = PositionTotals(np.ones(6, dtype=np.int64))
    for document, nats in enumerate((1.0, 3.0) * 3):
        totals.add(np.full(64, document), np.arange(64), np.full(64, nats))
    (record,) = totals.records(CONTEXT)
    # Six documents of one length: a draw has 0 to 6 of three nats, and so 1 to 3 nats per token.
    assert record.value == pytest.approx(math.exp(2))
    nats = np.log([record.low, record.high])
    assert nats[0] < 2 < nats[1]
    assert nats * 3 == pytest.approx(np.round(nats * 3), abs=0.5)
    assert record.method == BOOTSTRAP


def test_two_documents_tell_no_interval() -> None:
    totals = PositionTotals(np.array([1, 1]))
    for document, nats in enumerate((1.0, 3.0)):
        totals.add(np.full(64, document), np.arange(64), np.full(64, nats))
    (record,) = totals.records(CONTEXT)
    assert record.value == pytest.approx(math.exp(2))
    assert (math.isnan(record.low), math.isnan(record.high)) == (True, True)
    assert record.method == TOO_FEW


def test_a_cut_document_goes_on_where_it_was_cut() -> None:
    pieces = np.zeros(3, dtype=PIECE_DTYPE)
    pieces["row"], pieces["start"], pieces["tokens"] = [0, 0, 1], [0, 4, 100], [3, 2, 4]
    none = torch.empty(0)
    batch = Batch(none, none, none, none, none, none, pieces=pieces)

    assert positions_of(batch).tolist() == [0, 1, 2, 4, 5, 100, 101, 102, 103]
