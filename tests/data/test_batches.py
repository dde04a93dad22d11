"""Tensors of packed rows, by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from biomamba.data.batches import (
    IGNORED_TARGET,
    Batch,
    PlannedSource,
    RowRequest,
    build_batch,
    empty_batch,
)
from biomamba.data.packing import Concat, Packing, SingleDocument
from biomamba.data.store_reader import open_stores
from biomamba.data.token_split import TokenSplit
from biomamba.data.tokenizer import Tokenizer

TEXTS = ["abc", "de"]


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


def test_to_moves_every_tensor(planned: Callable[..., PlannedSource]) -> None:
    moved = all_rows(planned(Concat(), 7), 7).to("meta", non_blocking=True)
    assert all(tensor.is_meta for tensor in vars(moved).values())
