"""Numbers and doses of a text."""

import pytest

from biomamba.metrics.clinical_text import doses_of, in_figures, numbers_of


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("5.0 and 05 and 5", ["5", "5", "5"]),
        ("1,000.50 mL", ["1000.5"]),
        ("BP 120/80, .5", ["120", "80", "0.5"]),
        ("1. Aspirin 81 mg\n2) heparin", ["81"]),
        ("10-20 days", ["10", "20"]),
        ("T2N0 room2 C5", []),
        ("100 and 120", ["100", "120"]),
    ],
)
def test_a_number_has_one_spelling_and_lists_are_not_numbers(text: str, numbers: list[str]) -> None:
    assert numbers_of(text, spelled=False) == numbers
    assert numbers_of(text, spelled=True) == numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("twenty six years", "26"),
        ("twenty-six years", "26"),
        ("a hundred and five", "105"),
        ("one forty", "140"),
        ("nineteen eighty five", "1985"),
        ("two thousand twenty", "2020"),
        ("two thousand five hundred", "2500"),
        ("three hundred thousand", "300000"),
        ("ten", "10"),
    ],
)
def test_spelled_numbers_count_where_they_are_asked_for(text: str, number: str) -> None:
    assert numbers_of(text, spelled=True) == [number]
    assert numbers_of(text, spelled=False) == []


def test_words_apart_are_numbers_apart() -> None:
    assert in_figures("One forty over eighty, five six") == "140 over 80, 5 6"
    assert in_figures("None of the tenth, often") == "None of the tenth, often"


def test_a_dose_is_a_number_with_its_unit() -> None:
    text = "5.0mg, 5 milligrams, 10 mL, 40 units, 10%, 1,000 IU, 5 months, 3 more, 250-mg"
    same = [("5", "mg"), ("5", "mg"), ("10", "ml"), ("40", "unit"), ("10", "%"), ("1000", "unit")]

    assert doses_of(text, spelled=False) == [*same, ("250", "mg")]


def test_spelled_doses_count_where_they_are_asked_for() -> None:
    assert doses_of("twenty five milligrams", spelled=True) == [("25", "mg")]
    assert doses_of("twenty five milligrams", spelled=False) == []
