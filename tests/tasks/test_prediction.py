"""Predictions: what an answer holds when it says nothing else."""

from biomamba.tasks.task import ANSWERED, EMPTY, UNPARSABLE, Prediction


def test_an_answer_stands_for_no_label_unless_it_says_so() -> None:
    found = Prediction(id="i1", text="perhaps")

    assert found.label is None
    assert found.status == ANSWERED
    assert not found.scores
    assert not found.candidates


def test_the_ways_of_an_answer_differ() -> None:
    assert len({ANSWERED, UNPARSABLE, EMPTY}) == 3
