"""Reading a label out of a generated answer."""

import itertools
import random

import pytest

from biomamba.tasks.labels import parse_label

LABELS = ("yes", "no", "maybe")
# Words of real answers that hold letters of a label without being one.
OTHERS = (
    *("normal", "not", "none", "northern", "nothing", "note", "know", "novel", "noon", "no-one"),
    *("yesterday", "eyes", "non-yes", "yes-man", "maybes", "enough", "evidence", "the", "effect"),
)


@pytest.mark.parametrize(
    "text",
    ["yes", "Yes.", " YES", "yes\n", "**Yes**", "'yes'", '"yes."', "Answer: yes", "yes!!", "_yes_"],
)
def test_a_bare_label_is_read_in_any_dress(text: str) -> None:
    assert parse_label(text, LABELS) == "yes"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("No, it does not.", "no"),
        ("Yes, because no patient died.", "yes"),
        ("The answer is maybe", "maybe"),
        ("Based on the context, the answer is no.", "no"),
        ("The answer is no since the trial was small", "no"),
        ("My final answer is Yes because", "yes"),
        ("It is not yes, but no", "no"),
        ("no - the trial was small", "no"),
        ("Yes. Yes, it does.", "yes"),
        ("Answer:\n\nno\n", "no"),
        ("yes\n\nQuestion: Is there another one?\nAnswer: no", "yes"),
    ],
)
def test_the_label_that_opens_or_closes_a_clause_is_the_answer(text: str, label: str) -> None:
    assert parse_label(text, LABELS) == label


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n ",
        "normal",
        "not enough evidence",
        "yesterday",
        "none",
        "northern",
        "there is no evidence",
        "not yes",
        "the answer is not yes",
        "the answer is unknown and there is no evidence",
        "no\u0301",  # another letter, in two characters
        "a no-go",
    ],
)
def test_what_holds_no_label_is_unparsable(text: str) -> None:
    assert parse_label(text, LABELS) is None


@pytest.mark.parametrize("joint", [" and ", " or ", ", ", " / ", ". ", " ", "; but ", " (", " - "])
@pytest.mark.parametrize("pair", list(itertools.permutations(LABELS, 2)))
def test_two_different_labels_contradict_each_other(joint: str, pair: tuple[str, str]) -> None:
    assert parse_label(joint.join(pair), LABELS) is None
    assert parse_label(f"Answer: {joint.join(pair)}.", LABELS) is None


def test_words_that_are_no_labels_never_make_one() -> None:
    rng = random.Random(0)
    for _ in range(300):
        words = rng.choices(OTHERS, k=rng.randint(1, 8))
        text = "".join(word + rng.choice([" ", ", ", ". ", "\n", ": "]) for word in words)

        assert parse_label(text, LABELS) is None, text


def test_a_label_among_other_clauses_is_found_wherever_they_stand() -> None:
    rng = random.Random(1)
    for label in LABELS * 50:
        clauses = [" ".join(rng.choices(OTHERS, k=rng.randint(1, 4))) for _ in range(4)]
        clauses.insert(rng.randint(0, 4), rng.choice([label, label.upper(), label.title()]))

        assert parse_label(", ".join(clauses), LABELS) == label, clauses


def test_order_and_case_of_the_labels_change_nothing() -> None:
    for labels in itertools.permutations(("Yes", "No", "Maybe")):
        assert parse_label("MAYBE, but the study was small", labels) == "Maybe"


def test_the_longer_of_two_labels_that_fit_counts() -> None:
    labels = ("no", "no difference", "B")

    assert parse_label("No difference.", labels) == "no difference"
    assert parse_label("No, none.", labels) == "no"
    assert parse_label("(b)", labels) == "B"


@pytest.mark.parametrize("labels", [("yes", "YES"), ("yes", ""), ("yes/no", "no")])
def test_labels_that_cannot_be_told_apart_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="distinct"):
        parse_label("yes", labels)
