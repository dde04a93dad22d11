"""Continuing rows with transformers; what it writes is tested with the models that use it."""

from typing import Any

import pytest

from biomamba.evaluation.models.loading import Writer, _merged


class Words:
    """A tokenizer whose words start with a space, but for the first one of a text."""

    vocab_size = 4

    def decode(self, ids: Any) -> str:
        return " ".join(("<e>", "yes", "no", "stop")[n] for n in ids)


def reader() -> Writer:
    return Writer(None, Words(), [0])  # type: ignore[arg-type]  # of which only decode is used


@pytest.mark.parametrize(
    ("ids", "stop", "text", "reason"),
    [
        ([1, 2], (), " yes no", "length"),
        ([1, 0, 2], (), " yes", "eos"),
        ([1, 3, 2], ("stop",), " yes ", "stop"),
        ([1, 2, 3], ("no", "yes"), " ", "stop"),  # the first one in the text, not in the list
        ([1, -1, -1], (), " yes", "eos"),  # what a beam without an end of text is filled with
        ([0], (), "", "eos"),
    ],
)
def test_a_text_ends_where_the_first_thing_ends_it(
    ids: list[int], stop: tuple[str, ...], text: str, reason: str
) -> None:
    assert reader()._read(ids, [2], stop) == (text, reason)


def test_equal_texts_are_one_candidate() -> None:
    found = _merged([(" yes", "eos"), ("yes ", "length"), ("no", "length")])

    assert list(found.candidates) == [" yes", "no"]
    assert found.stop_reason == "eos"
