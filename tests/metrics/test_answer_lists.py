"""Figures of lists of answers, as the official evaluator of BioASQ computes them."""

import random

import pytest

from biomamba.metrics.ranking import list_measures, list_score

GROUPS = [["KRAS", "K-ras"], ["NRAS"], ["BRAF"], ["PTEN"]]


def test_all_groups_in_any_order_and_case_score_the_maximum() -> None:
    score = list_score(GROUPS, ["pten", "k-RAS", "braf", "NRAS"])

    assert (score.precision, score.recall, score.f1) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("num_right", "num_wrong"), [(1, 0), (2, 3), (4, 4), (0, 2)])
def test_precision_and_recall_follow_from_the_counts(num_right: int, num_wrong: int) -> None:
    answers = [group[0] for group in GROUPS[:num_right]] + ["x"] * num_wrong
    random.Random(0).shuffle(answers)

    score = list_score(GROUPS, answers)

    precision, recall = num_right / (num_right + num_wrong), num_right / len(GROUPS)
    f1 = 2 * precision * recall / (precision + recall) if num_right else 0.0
    assert (score.precision, score.recall) == (precision, recall)
    assert score.f1 == pytest.approx(f1)


@pytest.mark.parametrize("repeated", ["KRAS", "K-ras", "kras"])
def test_a_group_is_found_once_and_its_repetition_is_wrong(repeated: str) -> None:
    score = list_score(GROUPS, ["KRAS", repeated])

    assert (score.precision, score.recall) == (1 / 2, 1 / 4)


def test_a_text_of_two_groups_finds_one_and_excuses_the_other_once() -> None:
    # The evaluator takes the first group for the answer, and does not count the second as missed,
    # because the answer is in it; a third one is missed, since the answer is used up.
    assert list_score([["a"], ["a"]], ["a"]).recall == 1.0
    assert list_score([["a"], ["a"], ["a"]], ["a"]).recall == 1 / 2


def test_no_answers_score_nothing() -> None:
    assert list_score(GROUPS, []).f1 == 0.0


@pytest.mark.parametrize("answer", ["KRAS.", " KRAS", "KRAS "])
def test_spaces_and_full_stops_make_a_difference(answer: str) -> None:
    assert list_score(GROUPS, [answer]).precision == 0.0


def by_removal(groups: list[list[str]], answers: list[str]) -> tuple[float, float]:
    """Count as the official evaluator, which removes what it finds from lists of both sides."""

    def contains(places: list[list[str]], texts: list[str]) -> bool:
        for index, place in enumerate(places):
            if {text.lower() for text in place} & {text.lower() for text in texts}:
                del places[index]
                return True
        return False

    golden, given = [list(group) for group in groups], [[answer] for answer in answers]
    hits = [contains(golden, [answer]) for answer in answers]
    missed = [not contains(given, group) for group in golden]
    found, total = sum(hits), sum(hits) + sum(missed)
    return found / len(answers), found / total if total else 0.0


def test_any_lists_score_as_in_the_official_evaluator() -> None:
    rng = random.Random(0)
    names = ["a", "A", "b", "c", "C.", "d", "e "]
    for _ in range(500):
        groups = [rng.choices(names, k=rng.randint(1, 3)) for _ in range(rng.randint(1, 5))]
        answers = rng.choices(names, k=rng.randint(1, 6))
        score = list_score(groups, answers)

        assert (score.precision, score.recall) == by_removal(groups, answers), (groups, answers)


def test_figures_are_means_per_question_not_over_answers() -> None:
    long = [[str(number)] for number in range(30)]
    references, answers = [long, [["a"]]], [[], ["a"]]

    found = {m.name: m.value for m in list_measures(references, answers)}

    assert found == {"list_f1": 0.5, "list_precision": 0.5, "list_recall": 0.5}
