"""What is right or wrong in a written clinical text."""

import pytest

from biomamba.metrics.clinical_text import (
    copying,
    lengths,
    negation_flips,
    section_coverage,
    unsupported_doses,
    unsupported_numbers,
)

SOURCE = "He took aspirin 81 mg for ten days. No fever. He has cough."


def test_coverage_is_a_mean_over_the_items_with_headings() -> None:
    measure = section_coverage([{"plan", "exam"}, set(), {"plan"}], [{"plan", "labs"}, {"a"}, ()])

    assert measure.value == pytest.approx((1 / 2 + 0) / 2)
    assert measure.columns.tolist() == [[0.5, 1], [0, 1], [0, 0]]


def test_numbers_that_the_source_does_not_hold_are_counted() -> None:
    measure = unsupported_numbers(["81 mg for 10 days, 7 left", "", "81 twelve"], [SOURCE] * 3)

    assert measure.columns.tolist() == [[1, 3], [0, 0], [0, 1]]
    assert measure.value == pytest.approx(1 / 4)
    assert measure.higher_is_better is False


def test_a_dose_needs_its_unit_in_the_source() -> None:
    measure = unsupported_doses(["81 mg", "81 mcg", "10 mg"], [SOURCE] * 3)

    assert measure.columns.tolist() == [[0, 1], [1, 1], [1, 1]]


def test_flips_go_both_ways_and_need_the_finding_in_both_texts() -> None:
    outputs = ["Fever, cough.", "No cough. No fever.", "Chills.", ""]

    measure = negation_flips(outputs, [SOURCE] * 4)

    assert measure.columns.tolist() == [[1, 2], [1, 2], [0, 0], [0, 0]]
    assert measure.value == 2 / 4


def test_a_copy_of_the_source_flips_nothing_and_is_all_copied() -> None:
    share, run = copying([SOURCE], [SOURCE])

    assert negation_flips([SOURCE], [SOURCE]).value == 0
    assert unsupported_numbers([SOURCE], [SOURCE]).value == 0
    assert share.value == 1
    assert run.value == 13


def test_copying_counts_runs_of_four_words() -> None:
    # he took aspirin 81 | took aspirin 81 tablets | aspirin 81 tablets daily: one of three.
    share, run = copying(["He took aspirin 81 tablets daily", ""], [SOURCE, SOURCE])

    assert share.columns[:, 0].tolist() == [pytest.approx(1 / 3), 0]
    assert run.columns[:, 0].tolist() == [4, 0]
    assert share.higher_is_better is None


def test_lengths_are_ratios_of_words_and_empty_outputs_are_counted() -> None:
    ratio, empty = lengths(["a b c", " \n", "a"], [["a b"], ["a"], ["..."]])

    assert ratio.columns[:, 0].tolist() == [1.5, 0, 1]
    assert empty.value == pytest.approx(1 / 3)
    assert empty.is_proportion
