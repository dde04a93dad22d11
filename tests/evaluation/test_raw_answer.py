"""Answers as they are in files."""

import json

import pytest

from biomamba.evaluation.answer_model import Hidden, RawAnswer, key_of

ANSWERS = [
    RawAnswer(key="1", log_probabilities=[-1.5, -2.25], num_tokens=[1, 2], num_cut_tokens=3),
    RawAnswer(key="2", candidates=["a", "b"], stop_reason="eos", label="yes"),
    RawAnswer(key="3", status="empty", hidden=[Hidden.of("text")], columns={"rouge": [1.0, 2.0]}),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: str(answer.key))
def test_an_answer_comes_back_as_it_was(answer: RawAnswer) -> None:
    plain = json.loads(json.dumps(answer.plain()))

    assert RawAnswer.from_plain(plain) == answer
    assert RawAnswer.from_plain(plain | {"of a later version": 1}) == answer


def test_what_is_empty_takes_no_room() -> None:
    assert set(ANSWERS[0].plain()) == {
        *("key", "log_probabilities", "num_tokens", "status", "num_cut_tokens")
    }


def test_an_answer_without_a_key_is_none() -> None:
    with pytest.raises(TypeError, match="key"):
        RawAnswer.from_plain({"status": "answered"})


def test_a_hidden_text_is_a_hash_and_a_length() -> None:
    hidden = Hidden.of("chest pain")

    assert hidden.num_chars == 10
    assert len(hidden.sha256) == 64
    assert hidden != Hidden.of("chest pain.")


def test_ids_are_kept_or_hashed() -> None:
    assert key_of("t", "10000032-DS-21", is_restricted=False) == "10000032-DS-21"
    hashed = key_of("t", "10000032-DS-21", is_restricted=True)
    assert len(hashed) == 64
    assert hashed != key_of("u", "10000032-DS-21", is_restricted=True)


def test_a_log_probability_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        RawAnswer.from_plain({"key": "a", "log_probabilities": [-1.0, float("nan")]})
