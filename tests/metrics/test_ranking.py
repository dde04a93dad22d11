"""Figures of ranked candidates, as the official evaluator of BioASQ computes them."""

import pytest

from biomamba.metrics.ranking import MAX_CANDIDATES, rank_of, ranking_measures

GROUPS = [["Ixodes", "Ixodes ricinus"], ["castor bean tick"]]


@pytest.mark.parametrize("place", range(1, 8))
def test_the_place_of_the_first_right_candidate_counts_up_to_five(place: int) -> None:
    candidates = ["wrong"] * (place - 1) + ["Ixodes", "castor bean tick"]

    found = {m.name: m.value for m in ranking_measures([GROUPS], [candidates])}

    within = place <= MAX_CANDIDATES
    assert rank_of(GROUPS, candidates) == (place if within else None)
    assert found == {
        "mrr": 1 / place if within else 0.0,
        "strict_accuracy": float(place == 1),
        "lenient_accuracy": float(within),
    }


@pytest.mark.parametrize("text", ["ixodes", "IXODES RICINUS", "Castor Bean Tick"])
def test_any_synonym_in_any_case_is_right(text: str) -> None:
    assert rank_of(GROUPS, [text]) == 1


@pytest.mark.parametrize("text", [" Ixodes", "Ixodes ", "Ixodes.", "Ixodes  ricinus", "ixode", ""])
def test_any_other_difference_is_wrong(text: str) -> None:
    assert rank_of(GROUPS, [text]) is None


def test_lower_case_is_not_folded_further() -> None:
    assert rank_of([["stra\u00dfe"]], ["STRASSE"]) is None
    assert rank_of([["\u0395"]], ["\u03b5"]) == 1  # capital and small epsilon


def test_figures_are_means_over_all_questions_answered_or_not() -> None:
    candidates = [["Ixodes"], ["x", "y", "Ixodes"], [], ["x"]]

    found = {m.name: m.value for m in ranking_measures([GROUPS] * 4, candidates)}

    assert found == {
        "mrr": pytest.approx((1 + 1 / 3) / 4),
        "strict_accuracy": 1 / 4,
        "lenient_accuracy": 2 / 4,
    }


def test_accuracies_are_proportions_and_the_reciprocal_rank_is_none() -> None:
    measures = ranking_measures([GROUPS], [["Ixodes"]])

    assert [m.is_proportion for m in measures] == [False, True, True]
