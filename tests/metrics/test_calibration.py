"""Calibration error and Brier score."""

import numpy as np
import pytest

from biomamba.metrics.classification import brier_score, calibration_error, calibration_measures


def scored(confidence: float) -> dict[str, float]:
    """Return probabilities whose best answer is `yes`."""
    return {"yes": confidence, "no": 1 - confidence}


def test_certain_and_right_is_perfect_and_certain_and_wrong_the_worst() -> None:
    for truth, error, brier in (("yes", 0.0, 0.0), ("no", 1.0, 2.0)):
        assert calibration_error([truth] * 3, [scored(1.0)] * 3).value == error
        assert brier_score([truth] * 3, [scored(1.0)] * 3).value == brier


def test_error_is_the_mean_over_items_of_the_gap_of_their_bin() -> None:
    # Bin of 0.6: 10 items, half of them right: gap 0.1. Bin of 0.9: 30 items, all right: 0.1 again
    # with the other sign, so that a single bin over both would show less.
    truths = ["yes"] * 5 + ["no"] * 5 + ["yes"] * 30
    scores = [scored(0.6)] * 10 + [scored(0.9)] * 30

    assert calibration_error(truths, scores).value == pytest.approx(0.1)
    one_bin = abs(35 - (0.6 * 10 + 0.9 * 30)) / 40
    assert calibration_error(truths, scores, num_bins=1).value == pytest.approx(one_bin)


def test_answers_drawn_from_their_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.5, 1, 20_000)
    truths = ["yes" if hit else "no" for hit in rng.random(20_000) < confidences]
    scores = [scored(float(confidence)) for confidence in confidences]

    # 5 bins of 4,000 items each: a gap has a standard deviation of at most 0.5 / sqrt(4000).
    assert calibration_error(truths, scores).value < 3 * 0.5 / np.sqrt(4_000)
    expected = np.mean(2 * confidences * (1 - confidences))
    assert brier_score(truths, scores).value == pytest.approx(expected, abs=0.01)


def test_brier_adds_the_squares_of_all_answers() -> None:
    scores = [{"a": 0.5, "b": 0.3, "c": 0.2}]

    assert brier_score(["b"], scores).value == pytest.approx(0.5**2 + 0.7**2 + 0.2**2)


def test_uniform_guessing_has_the_brier_score_of_its_number_of_answers() -> None:
    for size in (2, 3, 4):
        scores = [{str(name): 1 / size for name in range(size)}] * 6
        assert brier_score(["0"] * 6, scores).value == pytest.approx(1 - 1 / size)


def test_a_resample_is_the_measure_of_its_items() -> None:
    truths = ["yes", "no", "no", "yes"]
    scores = [scored(p) for p in (0.7, 0.72, 0.9, 0.55)]
    counts, picked = np.array([[2.0, 0.0, 1.0, 1.0]]), [0, 0, 2, 3]

    measures = calibration_measures(truths, scores)
    again = calibration_measures([truths[i] for i in picked], [scores[i] for i in picked])

    for measure, resampled in zip(measures, again, strict=True):
        value = measure.statistic(counts @ measure.columns)[0]
        assert value == pytest.approx(resampled.value), measure.name


def test_generated_answers_have_no_calibration() -> None:
    assert calibration_measures(["yes", "no"], [scored(0.9), {}]) == []


@pytest.mark.parametrize("score", [{}, {"no": 1.0}, {"yes": 0.9, "no": 0.9}, {"yes": 2, "no": -1}])
def test_what_is_no_probability_of_the_truth_is_refused(score: dict[str, float]) -> None:
    for measure in (calibration_error, brier_score):
        with pytest.raises(ValueError, match="item 0"):
            measure(["yes"], [score])


def test_bins_must_be_some() -> None:
    with pytest.raises(ValueError, match="at least 1, found 0"):
        calibration_error(["yes"], [scored(0.9)], num_bins=0)
