"""Answers that a model wrote."""

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.tasks.labels import candidates_of, check_cleaning, cleaned, one_line
from biomamba.tasks.task import Prediction


@pytest.mark.parametrize(
    ("text", "none", "full_stop"),
    [(" Ixodes.\n", "Ixodes.", "Ixodes"), ("IL-6 ..", "IL-6 ..", "IL-6 ."), (".", ".", "")],
)
def test_cleaning_takes_off_what_it_says(text: str, none: str, full_stop: str) -> None:
    assert (cleaned(text, "none"), cleaned(text, "full_stop")) == (none, full_stop)


def test_candidates_are_the_text_where_there_are_none() -> None:
    assert candidates_of(Prediction(id="1", text=" a "), "none") == ["a"]
    assert candidates_of(Prediction(id="1", text="a", candidates=["b", " ", "a"]), "none") == [
        "b",
        "a",
    ]
    assert candidates_of(Prediction(id="1", text=" "), "none") == []


def test_a_line_keeps_all_but_line_breaks() -> None:
    assert one_line(" type 2  diabetes,\nearly \n") == "type 2  diabetes, early"


@pytest.mark.parametrize(
    ("cleaning", "protocol"), [("full_stop", "official"), ("none", "mine"), ("all", "official")]
)
def test_the_official_protocol_goes_with_no_cleaning(cleaning: str, protocol: str) -> None:
    with pytest.raises(ConfigError, match=f"cleaning is '?{cleaning}"):
        check_cleaning(cleaning, protocol, "official")


def test_other_cleaning_goes_with_another_protocol() -> None:
    check_cleaning("none", "official", "official")
    check_cleaning("full_stop", "mine", "official")
