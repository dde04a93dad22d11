"""Two models on the same items."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from biomamba.metrics import measure as grouped
from biomamba.metrics.classification import calibration_error, macro_f1
from biomamba.metrics.measure import (
    NOT_SMOOTH,
    Bootstrap,
    Measure,
    bootstrap_interval,
    interval_of,
    mean,
    proportion,
    ratio,
)
from biomamba.metrics.significance import (
    EXACT_SWAPS,
    MCNEMAR,
    NO_TEST,
    RANDOM_SWAPS,
    STUDENTIZED,
    TOO_FEW,
    mcnemar,
    paired_difference,
)

SMALL = Bootstrap(num_resamples=400)


def names(count: int) -> list[str]:
    return [f"item {index:04d}" for index in range(count)]


def f1(sums: np.ndarray) -> np.ndarray:
    whole = 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]
    return np.divide(2 * sums[:, 0], whole, out=np.zeros(len(sums)), where=whole != 0)


def f1_slopes(sums: np.ndarray) -> np.ndarray:
    """Return the derivative of 2 h / (2 h + f + m) by hits h, false alarms f and misses m."""
    hits, whole = sums[0], 2 * sums[0] + sums[1] + sums[2]
    return np.array([2 * (whole - 2 * hits), -2 * hits, -2 * hits]) / whole**2


def make_f1(seed: int, count: int) -> Measure:
    """Return the F1 of an answer that is right, a false alarm or a miss at random."""
    kind = np.random.default_rng(seed).integers(0, 3, size=count)
    return Measure("f1", np.eye(3)[kind], f1)


@pytest.mark.parametrize(("a_only", "b_only"), [(0, 0), (1, 0), (3, 3), (2, 9), (40, 61), (0, 12)])
def test_mcnemar_is_the_sign_test_of_the_items_with_one_right_model(
    a_only: int, b_only: int
) -> None:
    both = [(True, True)] * 5 + [(False, False)] * 4
    pairs = np.array([(True, False)] * a_only + [(False, True)] * b_only + both)
    found = mcnemar(pairs[:, 0], pairs[:, 1])
    whole = a_only + b_only
    assert (found.a_only, found.b_only) == (a_only, b_only)
    expected = binomtest(a_only, whole).pvalue if whole else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-12)


def test_mcnemar_needs_the_same_items() -> None:
    with pytest.raises(ValueError, match="one model has 2 items, the other 3"):
        mcnemar(np.ones(2, dtype=bool), np.ones(3, dtype=bool))


def test_a_model_does_not_differ_from_itself() -> None:
    measure = make_f1(0, 50)
    found = paired_difference(measure, measure, names(50), SMALL)
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert found.test == EXACT_SWAPS


def test_exchanged_models_have_the_difference_with_its_sign_turned() -> None:
    a, b = make_f1(1, 40), make_f1(2, 40)
    one, other = (paired_difference(*pair, names(40), SMALL) for pair in ((a, b), (b, a)))
    assert one.value == pytest.approx(-other.value)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p_value == other.p_value
    assert one.test == f"{RANDOM_SWAPS}{STUDENTIZED}"


def test_difference_and_interval_are_those_of_the_differences_of_the_items() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=30), rng.normal(size=30)
    found = paired_difference(mean("score", a), mean("score", b), names(30), SMALL)
    columns = np.stack([a - b, np.ones(30)], axis=1)
    alone = bootstrap_interval(columns, lambda sums: sums[:, 0] / sums[:, 1], SMALL)
    assert found.value == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
    assert found.standard_error == pytest.approx((a - b).std() / math.sqrt(30), rel=0.15)


def test_what_models_share_does_not_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    hard = rng.normal(0, 100, size=80)
    gain = rng.normal(1, 0.1, size=80)
    a, b = mean("score", hard + gain), mean("score", hard)
    found = paired_difference(a, b, names(80), SMALL)
    assert 0.9 < found.low < found.value < found.high < 1.1
    assert found.p_value == 1 / 401  # no drawn exchange is as extreme


def test_few_groups_are_exchanged_in_every_way() -> None:
    a, b = make_f1(5, 14), make_f1(6, 14)
    groups = [f"patient {index // 2}" for index in range(14)]
    found = paired_difference(a, b, groups, SMALL)
    extreme = []
    for choice in itertools.product([False, True], repeat=7):
        swapped = np.repeat(choice, 2)[:, None]
        first = np.where(swapped, b.columns, a.columns).reshape(7, 2, 3).sum(axis=1)
        second = np.where(swapped, a.columns, b.columns).reshape(7, 2, 3).sum(axis=1)
        scatter = first @ f1_slopes(first.sum(axis=0)) - second @ f1_slopes(second.sum(axis=0))
        error = math.sqrt(((scatter - scatter.mean()) ** 2).sum())
        sums = np.stack([first.sum(axis=0), second.sum(axis=0)])
        distance = abs(f1(sums)[0] - f1(sums)[1]) / error
        extreme.append(distance)
    # The first choice exchanges nothing.
    assert found.p_value == np.mean(np.array(extreme) >= extreme[0] - 1e-9)
    assert found.test == f"{EXACT_SWAPS}{STUDENTIZED}"
    assert 0 < found.p_value < 1


def test_exchanging_every_way_is_the_paired_permutation_test_of_scipy() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(0.5, 1, size=9), rng.normal(size=9)
    found = paired_difference(mean("score", a), mean("score", b), names(9), SMALL)
    theirs = permutation_test(
        (a, b), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples"
    )
    assert found.p_value == pytest.approx(theirs.pvalue, abs=1e-12)


def test_drawn_exchanges_come_close_to_all_of_them() -> None:
    rng = np.random.default_rng(8)
    hits = rng.random((2, 60)) < np.array([[0.7], [0.5]])
    exact = paired_difference(*(proportion("x", h) for h in hits), names(60), SMALL)
    drawn = paired_difference(
        *(mean("x", h.astype(float)) for h in hits), names(60), Bootstrap(num_resamples=4_000)
    )
    assert (exact.test, drawn.test) == (MCNEMAR, RANDOM_SWAPS)
    assert exact.p_value == mcnemar(hits[0], hits[1]).p_value
    # 4,000 draws know a probability p to a standard error of sqrt(p (1 - p) / 4,000) < 0.008.
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.03)


def test_another_seed_draws_other_exchanges_and_another_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = (mean("x", rng.normal(size=40)) for _ in range(2))
    one, same, other = (
        paired_difference(a, b, names(40), Bootstrap(num_resamples=200, seed=seed))
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one.p_value != other.p_value
    assert one.low != other.low
    assert one.value == other.value


def test_items_of_one_group_are_one_piece_of_evidence() -> None:
    a, b = proportion("x", np.ones(40, dtype=bool)), proportion("x", np.zeros(40, dtype=bool))
    assert paired_difference(a, b, names(40), SMALL).p_value == 2 / 2**40
    groups = [f"patient {index % 4}" for index in range(40)]
    assert paired_difference(a, b, groups, SMALL).p_value == 2 / 2**4
    alone = paired_difference(a, b, ["one"] * 40, SMALL)
    assert (alone.p_value, math.isnan(alone.low), math.isnan(alone.high)) == (1.0, True, True)


def test_equal_models_are_called_different_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(9)
    p_values = np.array(
        [
            paired_difference(
                make_f1(1_000 + trial, 30),
                make_f1(2_000 + trial, 30),
                [f"{name}" for name in rng.permutation(30)],
                Bootstrap(num_resamples=99, seed=trial),
            ).p_value
            for trial in range(200)
        ]
    )
    # With 99 draws P(p <= alpha) is at most alpha, exactly. Binomial(200, 0.1): deviation 4.2.
    assert (p_values <= 0.1).sum() <= 33
    assert (p_values <= 0.5).sum() <= 128


def test_figures_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not the same figure .* x \(3, 2\) and x \(4, 2\)"):
        paired_difference(mean("x", np.ones(3)), mean("x", np.ones(4)), names(3), SMALL)
    with pytest.raises(ValueError, match="not the same figure"):
        paired_difference(mean("x", np.ones(3)), mean("y", np.ones(3)), names(3), SMALL)


def test_an_undefined_figure_has_no_p_value() -> None:
    undefined = Measure("x", np.ones((3, 1)), lambda sums: np.full(len(sums), np.nan))
    assert math.isnan(paired_difference(undefined, undefined, names(3), SMALL).p_value)


def rejections(make: Callable[[np.random.Generator], tuple[Measure, Measure]]) -> float:
    """Return the share of 300 sets drawn under equal figures whose p value is below 0.05."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(300):
        a, b = make(rng)
        groups = [str(item) for item in range(len(a.columns))]
        found.append(paired_difference(a, b, groups, Bootstrap(num_resamples=200)).p_value)
    known = [p for p in found if not math.isnan(p)]
    return sum(p < 0.05 for p in known) / max(1, len(known))


def test_equal_precision_at_other_answer_rates_is_rarely_called_different() -> None:
    """Drawn: 7 of 10 answers are right in both models, which answer 20 % and 40 % of the items."""

    def make(rng: np.random.Generator) -> tuple[Measure, Measure]:
        pair = []
        for rate in (0.2, 0.4):
            chosen = rng.random(400) < rate
            hits = chosen & (rng.random(400) < 0.7)
            pair.append(ratio("precision", hits.astype(float), chosen.astype(float)))
        return pair[0], pair[1]

    assert 0.01 <= rejections(make) <= 0.09


def test_equal_macro_f1_from_other_errors_is_rarely_called_different() -> None:
    """One model is right on 90 % of the first label and 60 % of the second, the other reversed."""

    def make(rng: np.random.Generator) -> tuple[Measure, Measure]:
        truths = rng.integers(0, 2, 200)
        pair = []
        for rates in ((0.9, 0.6), (0.6, 0.9)):
            is_right = rng.random(200) < np.array(rates)[truths]
            answers = np.where(is_right, truths, 1 - truths)
            pair.append(macro_f1(["0", "1"], [*map(str, truths)], [*map(str, answers)]))
        return pair[0], pair[1]

    assert 0.01 <= rejections(make) <= 0.09


def test_a_figure_in_which_few_items_count_has_no_p_value() -> None:
    chosen = np.zeros(100)
    chosen[:5] = 1
    few = ratio("precision", chosen, chosen)
    many = ratio("precision", np.ones(100) * (np.arange(100) % 2), np.ones(100))
    found = paired_difference(few, many, [str(item) for item in range(100)], Bootstrap())

    assert math.isnan(found.p_value)
    assert found.test == TOO_FEW


def test_a_figure_without_a_test_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "bootstrap_values", pytest.fail)
    scores = [[{"a": p, "b": 1 - p}] * 40 for p in (0.6, 0.7)]
    pair = [calibration_error(["a", "b"] * 20, each) for each in scores]
    found = paired_difference(pair[0], pair[1], names(40), Bootstrap())
    assert (found.test, found.method) == (NO_TEST, NO_TEST)
    assert math.isnan(found.standard_error)


def test_calibration_errors_are_not_compared_by_swaps() -> None:
    truths = ["a", "b"] * 20
    scores = [{"a": 0.7, "b": 0.3}] * 40
    first = calibration_error(truths, scores)
    second = calibration_error(truths, [{"a": 0.6, "b": 0.4}] * 40)
    found = paired_difference(first, second, [str(item) for item in range(40)], Bootstrap())

    # Half of the answers are right: |0.5 - 0.7| - |0.5 - 0.6|.
    assert found.value == pytest.approx(0.1)
    assert (found.test, math.isnan(found.p_value), math.isnan(found.low)) == (NO_TEST, True, True)
    assert interval_of(first, [str(item) for item in range(40)], Bootstrap())[1] == NOT_SMOOTH
