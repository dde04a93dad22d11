"""What evaluation asks of a model."""

from biomamba.evaluation.answer_model import ScoreRequest, Written


def test_requests_and_answers_with_equal_content_are_equal() -> None:
    assert ScoreRequest([1], [[2], [3, 4]]) == ScoreRequest([1], [[2], [3, 4]])
    assert Written(["yes"], "eos") == Written(["yes"], "eos")
