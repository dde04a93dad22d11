"""Rows of ids that pass through a model together."""

import pytest
import torch

from biomamba.evaluation.answer_model import ScoreRequest
from biomamba.evaluation.models.loading import (
    Place,
    Row,
    answer_rows,
    batches_by_length,
    fill_left,
    fill_right,
    look_up,
    request_rows,
    sums_of,
    wanted_positions,
)


def test_answers_of_one_id_share_a_row() -> None:
    rows, places = answer_rows((), [9, 1], [[2], [3], [4]], first_row=0)

    assert rows == [Row((), [9, 1], [(1, 2), (1, 3), (1, 4)])]
    assert places == [Place(0, 0, 1), Place(0, 1, 2), Place(0, 2, 3)]


def test_an_answer_that_another_one_begins_with_shares_its_row() -> None:
    rows, places = answer_rows((), [9], [[2], [2, 3, 4], [5, 6]], first_row=7)

    assert rows == [
        Row((), [9, 2, 3], [(0, 2), (0, 2), (1, 3), (2, 4)]),
        Row((), [9, 5], [(0, 5), (1, 6)]),
    ]
    assert places == [Place(7, 0, 1), Place(7, 1, 4), Place(8, 0, 2)]


@pytest.mark.parametrize("has_encoder", [False, True])
def test_every_answer_is_read_behind_its_own_prompt(has_encoder: bool) -> None:
    requests = [ScoreRequest([1], [[2, 3]]), ScoreRequest([4], [[5], [6, 7]])]

    rows, places = request_rows(requests, [9], has_encoder=has_encoder)

    read = [(list(row.prompt), row.ids) for row in rows]
    expected = [([1], [9, 2]), ([4], [9, 6])] if has_encoder else [([], [9, 1, 2]), ([], [9, 4, 6])]
    assert read == expected
    assert [[at.row for at in mine] for mine in places] == [[0], [1, 1]]


def test_values_are_summed_by_answer() -> None:
    places = [[Place(0, 0, 2), Place(0, 1, 2)], [Place(1, 0, 1)]]

    assert sums_of([[1.0, 2.0], [4.0]], places) == [[3.0, 2.0], [4.0]]


def test_batches_hold_every_row_once_the_longest_first() -> None:
    rows = [Row((), [0] * length) for length in (2, 5, 1, 4, 3)]

    assert list(batches_by_length(rows, 2)) == [[1, 3], [4, 0], [2]]


def test_rows_are_filled_on_the_side_that_is_asked_for() -> None:
    device = torch.device("cpu")

    right, right_mask = fill_right([[5, 6, 7], [8]], device)
    left, left_mask = fill_left([[5, 6, 7], [8]], device)

    assert right.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert right_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert left.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert left_mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_log_probabilities_are_looked_up_where_they_are_wanted() -> None:
    logits = torch.randn(2, 4, 6)
    rows = [Row((), [0] * 4, [(1, 5), (3, 0)]), Row((), [0] * 2, [(1, 2)])]
    positions = wanted_positions(rows)
    assert positions == [1, 3]

    found = look_up(logits[:, positions], positions, rows)

    expected = logits.double().log_softmax(-1)
    assert found[0] == pytest.approx([float(expected[0, 1, 5]), float(expected[0, 3, 0])])
    assert found[1] == pytest.approx([float(expected[1, 1, 2])])
