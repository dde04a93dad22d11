"""Validation documents of a stream."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from biomamba.data.batches import DocumentRows
from biomamba.data.document import Document, SplitRule
from biomamba.data.streaming.datamodule import DocumentsInMemory, held_out_documents
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError

Make = Callable[..., Any]
DOCUMENTS = [Document(text, text, "test") for text in ("a" * 90, "b", "", "ä" * 20)]


def test_the_first_of_the_split_are_found_in_order(make_plan: Make) -> None:
    plan = make_plan()
    source, admission = plan.sources[0], plan.settings.admission
    every = [
        document
        for shard in source.shards
        for _, document in shard.documents(1.0)
        if admission.is_of("val", document)
    ]
    assert held_out_documents(source, admission, 7, 1.0) == every[:7]
    assert held_out_documents(source, admission, 10_000, 1.0) == every


def test_reading_stops_when_enough_are_found(make_plan: Make, make_corpus: Make) -> None:
    corpus = make_corpus([["a"] * 50])
    corpus.raw[0].__dict__["fail_at"] = 40
    plan = make_plan(weights={"s": 1.0}, corpora={"s": corpus}, rule=SplitRule(900, 0))
    assert len(held_out_documents(plan.sources[0], plan.settings.admission, 5, 1.0)) == 5


def test_a_source_without_validation_documents_is_refused(make_plan: Make) -> None:
    plan = make_plan(rule=SplitRule(0, 100))
    with pytest.raises(DataError, match="'short' has no validation documents; raise split"):
        held_out_documents(plan.sources[0], plan.settings.admission, 5, 1.0)


def test_documents_in_memory_are_read_as_those_of_a_store(
    write_store: Make, byte_tokenizer: Tokenizer
) -> None:
    split = DocumentsInMemory(DOCUMENTS, byte_tokenizer)
    assert split.lengths.tolist() == [91, 2, 1, 41]
    assert split.num_bytes.tolist() == [90, 1, 0, 40]
    assert split.tokens(1).tolist() == [*byte_tokenizer.encode("b"), byte_tokenizer.eod_id]
    parts = split.parts(np.array([0, 3]), np.array([89, 40]), np.array([2, 1]))
    assert parts[0].tolist() == [*byte_tokenizer.encode("a"), byte_tokenizer.eod_id]
    assert parts[1].tolist() == [byte_tokenizer.eod_id]


def test_every_document_is_scored_once_over_the_ranks(byte_tokenizer: Tokenizer) -> None:
    rows = DocumentRows(DocumentsInMemory(DOCUMENTS, byte_tokenizer), seq_len=32, batch_size=2)
    scored = np.zeros(4, dtype=np.int64)
    for rank in range(3):
        for batch in rows.loader(rank=rank, world_size=3):
            document = batch.document.numpy()
            np.add.at(scored, document[document >= 0], 1)
    assert scored.tolist() == [91, 2, 1, 41]
