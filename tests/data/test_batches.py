"""Tensors of packed rows, by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from biomamba.data.batches import (
    IGNORED_TARGET,
    PIECE_DTYPE,
    Batch,
    PlannedSource,
    RowRequest,
    build_batch,
    empty_batch,
)
from biomamba.data.packing import BestFit, Concat, Packing, SingleDocument
from biomamba.data.store.reader import TokenSplit, open_stores
from biomamba.data.tokenizer import Tokenizer

TEXTS = ["abc", "de"]
TENSORS = ("input_ids", "targets", "seq_idx", "source", "num_bytes", "row_ids", "document")


@pytest.fixture
def planned(write_store: Callable[..., Path]) -> Callable[[Packing, int], PlannedSource]:
    """Return plan(packing, seq_len) over the stored TEXTS: S0 = a b c EOD, S1 = d e EOD."""
    split = TokenSplit.open(open_stores([str(write_store("a", TEXTS))]), "train")

    def _plan(packing: Packing, seq_len: int) -> PlannedSource:
        return PlannedSource(3, split, packing.plan(split.lengths, seq_len))

    return _plan


@pytest.fixture
def letter(byte_tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Return ids(text), where `.` stands for the end of a document."""

    def _ids(text: str) -> list[int]:
        return [0 if char == "." else byte_tokenizer.encode(char)[0] for char in text]

    return _ids


def all_rows(source: PlannedSource, seq_len: int) -> Batch:
    requests = [RowRequest(source, row, 100 + row) for row in range(source.plan.num_rows)]
    return build_batch(requests, seq_len, with_documents=True)


def test_a_document_takes_its_tokens_and_its_end(
    planned: Callable[..., PlannedSource], letter: Callable[[str], list[int]]
) -> None:
    batch = all_rows(planned(Concat(), 7), 7)
    assert batch.input_ids.tolist() == [letter(".abc.de")]
    assert batch.targets.tolist() == [letter("abc.de.")]
    assert batch.seq_idx.tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    assert batch.document is not None
    assert batch.document.tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    assert batch.num_bytes.tolist() == [5]


def test_a_cut_document_continues_with_the_token_before_the_cut(
    planned: Callable[..., PlannedSource], letter: Callable[[str], list[int]]
) -> None:
    batch = all_rows(planned(Concat(), 3), 3)
    assert batch.input_ids.tolist()[:2] == [letter(".ab"), letter("c.d")]
    assert batch.targets.tolist()[:2] == [letter("abc"), letter(".de")]
    assert batch.seq_idx.tolist()[1] == [0, 1, 1]


def test_the_end_of_a_row_is_padded_with_a_piece_of_its_own(
    planned: Callable[..., PlannedSource], letter: Callable[[str], list[int]]
) -> None:
    batch = all_rows(planned(SingleDocument(), 6), 6)
    assert batch.input_ids.tolist() == [letter(".abc.."), letter(".de...")]
    padding = IGNORED_TARGET
    assert batch.targets.tolist() == [
        [*letter("abc."), padding, padding],
        [*letter("de."), padding, padding, padding],
    ]
    assert batch.seq_idx.tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]
    assert batch.document is not None
    assert batch.document.tolist() == [[0, 0, 0, 0, -1, -1], [1, 1, 1, -1, -1, -1]]


def test_bytes_count_where_a_document_starts(planned: Callable[..., PlannedSource]) -> None:
    batch = all_rows(planned(Concat(), 3), 3)
    assert batch.num_bytes.tolist() == [3, 2, 0]


def test_rows_carry_their_source_and_number(planned: Callable[..., PlannedSource]) -> None:
    batch = all_rows(planned(SingleDocument(), 6), 6)
    assert (batch.source.tolist(), batch.row_ids.tolist()) == ([3, 3], [100, 101])


def test_types_are_those_the_model_takes(planned: Callable[..., PlannedSource]) -> None:
    batch = all_rows(planned(Concat(), 7), 7)
    assert batch.input_ids.dtype == batch.targets.dtype == batch.source.dtype == torch.int64
    assert batch.seq_idx.dtype == torch.int32


def test_documents_are_left_out_in_training(planned: Callable[..., PlannedSource]) -> None:
    batch = build_batch([RowRequest(planned(Concat(), 7), 0, 0)], 7)
    assert batch.document is None
    assert batch.to("cpu").document is None


def test_target_tokens_are_counted_without_padding(planned: Callable[..., PlannedSource]) -> None:
    assert all_rows(planned(SingleDocument(), 6), 6).num_target_tokens == 7


def test_an_empty_batch_scores_nothing(planned: Callable[..., PlannedSource]) -> None:
    batch = empty_batch(planned(Concat(), 7), 2, 7)
    assert batch.input_ids.shape == (2, 7)
    assert batch.num_target_tokens == 0
    assert batch.num_bytes.tolist() == [0, 0]
    assert batch.row_ids.tolist() == [-1, -1]


def test_to_moves_every_tensor_and_leaves_the_pieces(
    planned: Callable[..., PlannedSource],
) -> None:
    batch = all_rows(planned(Concat(), 7), 7)
    moved = batch.to("meta", non_blocking=True)
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 7
    assert all(tensor.is_meta for tensor in tensors)
    assert moved.pieces is batch.pieces


@pytest.mark.parametrize("with_documents", [False, True])
def test_the_pieces_tell_what_each_row_holds(
    with_documents: bool, planned: Callable[..., PlannedSource]
) -> None:
    source = planned(Concat(), 3)
    requests = [RowRequest(source, row, 0) for row in (1, 0, 2)]
    batch = build_batch(requests, 3, with_documents=with_documents)
    first, second = (int(key) for key in source.split.keys)
    assert batch.pieces.dtype == PIECE_DTYPE
    assert batch.pieces.tolist() == [
        (0, 3, first, 3, 1),
        (0, 3, second, 0, 2),
        (1, 3, first, 0, 3),
        (2, 3, second, 2, 1),
    ]


def test_the_pieces_of_an_empty_batch_are_none(planned: Callable[..., PlannedSource]) -> None:
    assert len(empty_batch(planned(Concat(), 7), 2, 7).pieces) == 0


@pytest.mark.parametrize("num_rows", [1, 2, 3, 9])
def test_the_parts_of_a_batch_equal_batches_of_their_rows(
    num_rows: int, planned: Callable[..., PlannedSource]
) -> None:
    source = planned(Concat(), 2)
    requests = [RowRequest(source, row, 10 + row) for row in (3, 1, 0, 2)]
    parts = build_batch(requests, 2, with_documents=True).split(num_rows)
    assert len(parts) == -(-4 // num_rows)
    for number, part in enumerate(parts):
        rows = requests[number * num_rows : (number + 1) * num_rows]
        for name, value in vars(build_batch(rows, 2, with_documents=True)).items():
            assert np.array_equal(getattr(part, name), value), name


def test_a_batch_stays_as_it_was_when_it_is_cut(
    planned: Callable[..., PlannedSource],
) -> None:
    batch = all_rows(planned(Concat(), 2), 2)
    pieces = batch.pieces.copy()
    batch.split(1)
    assert np.array_equal(batch.pieces, pieces)


def test_the_parts_of_a_batch_share_its_memory(planned: Callable[..., PlannedSource]) -> None:
    batch = all_rows(planned(Concat(), 2), 2)
    for part in batch.split(1):
        for name in TENSORS:
            whole, own = getattr(batch, name), getattr(part, name)
            assert own.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr(), name


TWO_SOURCES = {
    "a": ["x" * (i % 19) + "yz" * (i % 7) for i in range(60)],
    "b": ["uv" * (i % 23) for i in range(40)],
}


@pytest.mark.parametrize("packing", [BestFit(), Concat(), SingleDocument()])
@pytest.mark.parametrize("seq_len", [1, 5, 16, 64])
def test_a_batch_equals_the_one_built_piece_by_piece(
    packing: Packing, seq_len: int, write_store: Callable[..., Path]
) -> None:
    sources = []
    for index, (name, texts) in enumerate(TWO_SOURCES.items()):
        split = TokenSplit.open(open_stores([str(write_store(name, texts))]), "train")
        sources.append(PlannedSource(2 * index, split, packing.plan(split.lengths, seq_len)))
    requests = [
        RowRequest(source, row, row_id)
        for source in sources
        for row_id, row in enumerate(range(source.plan.num_rows))
    ]
    np.random.default_rng(seq_len).shuffle(requests)  # type: ignore[arg-type]
    for size in (1, 7, len(requests)):
        for begin in range(0, len(requests), size):
            part = requests[begin : begin + size]
            batch = build_batch(part, seq_len, with_documents=True)
            expected = piece_by_piece(part, seq_len)
            for name, value in expected.items():
                found = np.asarray(getattr(batch, name))
                assert found.dtype == value.dtype, name
                assert np.array_equal(found, value), name


def piece_by_piece(requests: list[RowRequest], seq_len: int) -> dict[str, np.ndarray]:
    """Build the arrays of a batch in the plainest way."""
    shape, eod_id = (len(requests), seq_len), requests[0].source.split.eod_id
    arrays = {
        "input_ids": np.full(shape, eod_id, dtype=np.int64),
        "targets": np.full(shape, IGNORED_TARGET, dtype=np.int64),
        "seq_idx": np.zeros(shape, dtype=np.int32),
        "document": np.full(shape, -1, dtype=np.int64),
        "source": np.array([request.source.index for request in requests], dtype=np.int64),
        "num_bytes": np.zeros(len(requests), dtype=np.int64),
        "row_ids": np.array([request.row_id for request in requests], dtype=np.int64),
    }
    pieces: list[tuple[int, ...]] = []
    for number, request in enumerate(requests):
        split, begin = request.source.split, 0
        for piece, (document, start, length) in enumerate(request.source.plan.pieces(request.row)):
            end = begin + length
            tokens = split.tokens(document)[max(start - 1, 0) : start + length]
            arrays["targets"][number, begin:end] = tokens[-length:]
            arrays["input_ids"][number, end - len(tokens) + 1 : end] = tokens[:-1]
            arrays["seq_idx"][number, begin:] = piece
            arrays["document"][number, begin:end] = document
            if start == 0:
                arrays["num_bytes"][number] += split.num_bytes[document]
            key = int(split.keys[document])
            pieces.append((number, request.source.index, key, start, length))
            begin = end
        if begin < seq_len:
            arrays["seq_idx"][number, begin:] += 1
    return arrays | {"pieces": np.array(pieces, dtype=PIECE_DTYPE)}
