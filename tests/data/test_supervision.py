"""What is learned of documents: prompts are read only, targets have weights."""

import numpy as np
import pytest

from biomamba.data.store.reader import Supervision

CONTEXT, WEIGHTS = np.array([2, 0, 3]), np.array([1.0, 0.5, 2.0], dtype=np.float32)
LENGTHS = np.array([4, 2, 4])


def test_the_first_tokens_have_no_weight_and_the_others_that_of_their_document() -> None:
    found = Supervision(CONTEXT, WEIGHTS).token_weights(LENGTHS)

    assert found.tolist() == [0, 0, 1, 1, 0.5, 0.5, 0, 0, 0, 2]
    assert found.dtype == np.float32


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_pieces_together_are_learned_as_the_whole(size: int) -> None:
    whole = Supervision(CONTEXT, WEIGHTS)
    cuts = [
        (number, start, min(size, length - start))
        for number, length in enumerate(LENGTHS.tolist())
        for start in range(0, length, size)
    ]
    document, start, length = (np.array(column) for column in zip(*cuts, strict=True))
    pieces = whole.of_pieces(document, start, length)

    assert pieces.token_weights(length).tolist() == whole.token_weights(LENGTHS).tolist()


def test_parts_are_put_in_order() -> None:
    first = Supervision(CONTEXT[:1], WEIGHTS[:1])
    second = Supervision(CONTEXT[1:], WEIGHTS[1:])
    found = Supervision.merge([first, second], np.array([2, 0, 1]))

    assert found is not None
    assert found.num_context.tolist() == [3, 2, 0]
    assert found.weights.tolist() == [2.0, 1.0, 0.5]


def test_sources_that_are_learned_whole_say_nothing() -> None:
    assert Supervision.merge([None, None], np.array([1, 0])) is None


def test_sources_must_not_disagree_on_whether_something_is_only_read() -> None:
    with pytest.raises(AssertionError, match="others do not"):
        Supervision.merge([None, Supervision.of_nothing()], np.array([0]))


def test_of_nothing_is_learned_nothing() -> None:
    assert Supervision.of_nothing().token_weights(np.empty(0, dtype=np.int64)).size == 0
