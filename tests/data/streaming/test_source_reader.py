"""One reader of one source: order, conservation, resume."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomamba.data.document import Document, SplitRule, document_key
from biomamba.data.store.reader import TokenSplit, open_stores
from biomamba.data.store.writer import StorePolicy
from biomamba.data.streaming.readers import Piece, Reading, SourceReader, StreamPlan
from biomamba.data.streaming.source import Admission
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError

Make = Callable[..., Any]


def reader_of(
    plan: StreamPlan, source: int, reader: int, position: list[int] | None = None
) -> SourceReader:
    return SourceReader(plan.sources[source], reader, plan.settings, position)


def train_tokens(plan: StreamPlan, source: int, reader: int) -> list[list[int]]:
    """Return the tokens of every training document of a reader, in raw order."""
    part = plan.sources[source].part(reader, plan.settings.reading.num_readers)
    tokenizer = plan.settings.tokenizer
    return [
        [*tokenizer.encode(document.text), tokenizer.eod_id]
        for shard in range(len(part.shards))
        for _, document in part.documents(shard, 0, 1.0)
        if plan.settings.admission.is_of("train", document)
    ]


def signature(pieces: list[Piece]) -> list[tuple[Any, ...]]:
    return [
        (piece.key, piece.start, piece.tokens.tolist(), piece.previous, piece.num_bytes)
        for piece in pieces
    ]


def documents_of(pieces: list[Piece]) -> list[list[int]]:
    """Join pieces to documents; the first and the last may be cut."""
    documents: list[list[int]] = []
    for piece in pieces:
        if piece.start == 0:
            documents.append([])
        assert len(documents[-1]) == piece.start
        documents[-1] += piece.tokens.tolist()
    return documents


@pytest.mark.parametrize("source", [0, 1, 2])
@pytest.mark.parametrize("reader", [0, 3])
def test_every_token_comes_once_per_epoch(source: int, reader: int, make_plan: Make) -> None:
    plan = make_plan()
    expected = train_tokens(plan, source, reader)
    num_tokens = sum(map(len, expected))
    read = reader_of(plan, source, reader)
    epochs = [documents_of(read.take(num_tokens)) for _ in range(3)]
    for documents in epochs:
        assert sorted(documents) == sorted(expected)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("source", [0, 1, 2])
def test_the_documents_are_those_of_the_training_split_of_a_store(
    source: int,
    make_plan: Make,
    corpora: Mapping[str, Any],
    write_corpus: Make,
    byte_tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    plan = make_plan(rule=SplitRule(200, 100))
    folder = tmp_path / "set" / "corpus"
    corpus = corpora[plan.sources[source].name]
    write_corpus(folder, corpus, byte_tokenizer, StorePolicy(200, 100))
    split = TokenSplit.open(open_stores([str(folder)]), "train")
    stored = [split.tokens(document).tolist() for document in range(len(split))]
    streamed = []
    for reader in range(4):
        num_tokens = sum(map(len, train_tokens(plan, source, reader)))
        streamed += documents_of(reader_of(plan, source, reader).take(num_tokens))
    assert sorted(streamed) == sorted(stored)


def test_a_piece_knows_what_came_before(make_plan: Make) -> None:
    plan = make_plan()
    read = reader_of(plan, 1, 0)
    pieces = [piece for _ in range(200) for piece in read.take(64)]
    assert sum(piece.start > 0 for piece in pieces) > 100
    for before, piece in pairwise(pieces):
        expected = before.tokens[-1] if piece.start else plan.settings.tokenizer.eod_id
        assert piece.previous == expected
        assert (piece.num_bytes > 0) == (piece.start == 0)


def test_num_bytes_are_those_of_the_text(make_plan: Make, make_corpus: Make) -> None:
    plan = make_plan(
        weights={"s": 1.0}, corpora={"s": make_corpus([["ä"]])}, num_readers=1, rule=SplitRule(0, 0)
    )
    (piece,) = reader_of(plan, 0, 0).take(3)
    assert (piece.num_bytes, len(piece.tokens)) == (2, 3)


@pytest.mark.parametrize("block_documents", [1, 4, 8, 1_000])
def test_a_block_is_shuffled_within_itself(block_documents: int, make_plan: Make) -> None:
    plan = make_plan(block_documents=block_documents)
    expected = train_tokens(plan, 1, 0)
    documents = documents_of(reader_of(plan, 1, 0).take(sum(map(len, expected))))
    for start in range(0, len(expected), block_documents):
        block = slice(start, start + block_documents)
        assert sorted(documents[block]) == sorted(expected[block])
    assert (documents == expected) == (block_documents == 1)


def orders(plan: StreamPlan, num_documents: int, num_epochs: int) -> list[list[int]]:
    """Return the number that each document of one byte stands for, epoch by epoch."""
    read = reader_of(plan, 0, 0)
    tokens = [
        np.concatenate([piece.tokens for piece in read.take(2 * num_documents)])[::2]
        for _ in range(num_epochs)
    ]
    return [[ord(c) for c in plan.settings.tokenizer.decode(list(found))] for found in tokens]


def test_every_block_has_an_order_of_its_own(make_plan: Make, make_corpus: Make) -> None:
    corpora = {"s": make_corpus([[chr(32 + number) for number in range(64)]])}
    options = {"weights": {"s": 1.0}, "num_readers": 1, "rule": SplitRule(0, 0)}
    plan = make_plan(corpora=corpora, block_documents=8, **options)
    blocks = {
        tuple(number % 8 for number in order[start : start + 8])
        for order in orders(plan, 64, 2)
        for start in range(0, 64, 8)
    }
    assert len(blocks) == 16


def test_every_epoch_has_an_order_of_the_shards(make_plan: Make, make_corpus: Make) -> None:
    shards = [[chr(32 + 2 * number), chr(33 + 2 * number)] for number in range(6)]
    options = {"weights": {"s": 1.0}, "num_readers": 1, "rule": SplitRule(0, 0)}
    plan = make_plan(corpora={"s": make_corpus(shards)}, block_documents=2, **options)
    found = {tuple(number // 2 for number in order[::2]) for order in orders(plan, 12, 4)}
    assert len(found) == 4


def test_seed_and_reader_change_the_order(make_plan: Make) -> None:
    first = signature(reader_of(make_plan(), 0, 0).take(500))
    assert signature(reader_of(make_plan(), 0, 0).take(500)) == first
    assert signature(reader_of(make_plan(seed=2), 0, 0).take(500)) != first


@pytest.mark.parametrize("source", [0, 1, 2])
def test_a_position_of_five_integers_is_all_that_a_resume_needs(
    source: int, make_plan: Make
) -> None:
    plan = make_plan()
    sizes = np.random.default_rng(source).integers(1, 90, size=120).tolist()
    whole = reader_of(plan, source, 1)
    expected = [signature(whole.take(size)) for size in sizes]
    read = reader_of(plan, source, 1)
    for size, pieces in zip(sizes, expected, strict=True):
        position = json.loads(json.dumps(read.position))
        assert len(position) == 5
        read = reader_of(plan, source, 1, position)
        assert signature(read.take(size)) == pieces


def test_a_source_smaller_than_a_block_goes_round(make_plan: Make, make_corpus: Make) -> None:
    plan = make_plan(
        weights={"s": 1.0},
        corpora={"s": make_corpus([["a", "b", "c"]])},
        num_readers=1,
        block_documents=100,
        rule=SplitRule(0, 0),
    )
    read = reader_of(plan, 0, 0)
    epochs = [documents_of(read.take(6)) for _ in range(30)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert read.position == [29, 0, 0, 3, 0]
    # All six orders of three documents turn up.
    assert len(Counter(str(epoch) for epoch in epochs)) == 6


def test_a_reader_without_documents_is_refused(make_plan: Make, make_corpus: Make) -> None:
    corpora = {"s": make_corpus([["a", "b"]])}
    plan = make_plan(weights={"s": 1.0}, corpora=corpora, rule=SplitRule(0, 0))
    with pytest.raises(DataError, match=r"reader 2 finds no training document .* source 's'"):
        reader_of(plan, 0, 2).take(1)


def test_a_pass_too_many_is_refused(make_plan: Make) -> None:
    plan = make_plan(max_repetition=2)
    num_tokens = sum(map(len, train_tokens(plan, 0, 0)))
    read = reader_of(plan, 0, 0)
    read.take(2 * num_tokens)
    with pytest.raises(ConfigError, match="max_repetition is 2, but reader 0"):
        read.take(1)


def test_other_splits_are_never_read(make_plan: Make, byte_tokenizer: Tokenizer) -> None:
    keys = {}
    for permille in (0, 300):
        plan = make_plan(rule=SplitRule(permille, permille))
        read, keys[permille] = reader_of(plan, 0, 0), set[int]()
        while read.position[0] == 0:
            keys[permille] |= {piece.key for piece in read.take(1)}
    rule = SplitRule(300, 300)
    assert keys[300] == {key for key in keys[0] if rule.split_of(key) == "train"}
    assert 0 < len(keys[300]) < len(keys[0])


@pytest.mark.parametrize("block_documents", [3, 8])
def test_documents_of_a_benchmark_leave_no_gap(
    block_documents: int, make_plan: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drop_some(self: Admission, documents: list[Document]) -> list[Document]:
        return [document for document in documents if document_key(document.id) % 3]

    plan = make_plan(block_documents=block_documents, rule=SplitRule(0, 0))
    every = {piece.key for piece in reader_of(plan, 1, 0).take(50_000)}
    monkeypatch.setattr(Admission, "without_benchmarks", drop_some)
    read = reader_of(plan, 1, 0)
    kept: set[int] = set()
    while read.position[0] < 2:
        kept |= {piece.key for piece in read.take(50)}
        read = reader_of(plan, 1, 0, read.position)
    assert kept == {key for key in every if key % 3}


@pytest.mark.parametrize(
    "options", [{"num_readers": 0}, {"block_documents": 0}, {"max_bad_fraction": 1.5}]
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Reading(**options)
