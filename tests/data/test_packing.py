"""Packing plans: conservation, capacity, order."""

import numpy as np
import pytest

from biomamba.data.packing import BestFit, Concat, Ints, PackedRows, Packing, SingleDocument

PACKINGS = [BestFit(), Concat(), SingleDocument()]


def some_lengths(seed: int, num_documents: int, seq_len: int) -> Ints:
    generator = np.random.default_rng(seed)
    return generator.integers(1, 3 * seq_len, size=num_documents, dtype=np.int64)


def row_fill(plan: PackedRows) -> Ints:
    rows = np.repeat(np.arange(plan.num_rows), np.diff(plan.row_offsets))
    return np.bincount(rows, weights=plan.piece_length, minlength=plan.num_rows).astype(np.int64)


def covered(plan: PackedRows, lengths: Ints) -> Ints:
    """Count how often each token of each document is in a piece."""
    begin = np.cumsum(lengths) - lengths
    counts = np.zeros(int(lengths.sum()), dtype=np.int64)
    for row in range(plan.num_rows):
        for document, start, length in plan.pieces(row):
            assert start + length <= lengths[document]
            counts[begin[document] + start : begin[document] + start + length] += 1
    return counts


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: type(packing).__name__)
@pytest.mark.parametrize(
    ("num_documents", "seq_len"), [(1, 8), (50, 1), (200, 7), (300, 64), (40, 500)]
)
def test_every_token_is_in_one_piece_and_rows_do_not_overflow(
    packing: Packing, num_documents: int, seq_len: int
) -> None:
    lengths = some_lengths(num_documents, num_documents, seq_len)
    plan = packing.plan(lengths, seq_len)
    assert (covered(plan, lengths) == 1).all()
    assert row_fill(plan).max() <= seq_len
    assert row_fill(plan).min() >= 1


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: type(packing).__name__)
def test_no_documents_make_no_rows(packing: Packing) -> None:
    plan = packing.plan(np.empty(0, dtype=np.int64), 8)
    assert (plan.num_rows, plan.row_offsets.tolist()) == (0, [0])


def test_best_fit_equals_the_naive_algorithm() -> None:
    lengths = np.random.default_rng(3).integers(1, 33, size=400, dtype=np.int64)
    spaces: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [(space, i) for i, space in enumerate(spaces) if space >= length]
        if fitting:
            spaces[min(fitting)[1]] -= length
        else:
            spaces.append(32 - length)
    fill = row_fill(BestFit().plan(lengths, 32))
    assert sorted(32 - fill) == sorted(spaces)


def test_best_fit_cuts_only_documents_longer_than_a_row() -> None:
    lengths = some_lengths(1, 200, 16)
    plan = BestFit().plan(lengths, 16)
    pieces = np.bincount(plan.piece_document, minlength=200)
    assert np.array_equal(pieces, -(-lengths // 16))


def test_best_fit_wastes_little_on_abstract_like_lengths() -> None:
    lengths = np.random.default_rng(0).lognormal(5.8, 0.5, 20_000).astype(np.int64) + 1
    plan = BestFit().plan(lengths, 1024)
    assert lengths.sum() / (plan.num_rows * 1024) > 0.99


def test_concat_leaves_no_padding_but_at_the_end() -> None:
    plan = Concat().plan(np.array([3, 8, 2, 1]), 5)
    assert row_fill(plan).tolist() == [5, 5, 4]
    assert [list(plan.pieces(row)) for row in range(3)] == [
        [(0, 0, 3), (1, 0, 2)],
        [(1, 2, 5)],
        [(1, 7, 1), (2, 0, 2), (3, 0, 1)],
    ]


def test_concat_takes_a_document_that_ends_with_its_row() -> None:
    plan = Concat().plan(np.array([5, 5]), 5)
    assert [list(plan.pieces(row)) for row in range(2)] == [[(0, 0, 5)], [(1, 0, 5)]]


def test_single_document_continues_long_ones_in_further_rows() -> None:
    plan = SingleDocument().plan(np.array([3, 12]), 5)
    assert [list(plan.pieces(row)) for row in range(4)] == [
        [(0, 0, 3)],
        [(1, 0, 5)],
        [(1, 5, 5)],
        [(1, 10, 2)],
    ]


def test_single_document_drops_what_exceeds_a_row_only_when_told_to() -> None:
    lengths = some_lengths(2, 300, 32)
    plan = SingleDocument(drop_overflow=True).plan(lengths, 32)
    expected = [(document, 0, min(int(n), 32)) for document, n in enumerate(lengths)]
    assert [piece for row in range(plan.num_rows) for piece in plan.pieces(row)] == expected
    assert plan.num_rows == 300


def test_plans_are_deterministic() -> None:
    lengths = some_lengths(5, 300, 32)
    first, second = BestFit().plan(lengths, 32), BestFit().plan(lengths.copy(), 32)
    for name in ("row_offsets", "piece_document", "piece_start", "piece_length"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
