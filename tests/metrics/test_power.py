"""How small a difference a test set can show."""

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, multinomial, nct, norm, t

from biomamba.metrics.measure import Bootstrap, mean
from biomamba.metrics.significance import (
    detectable_by,
    mcnemar,
    mcnemar_power,
    minimum_detectable_difference,
    minimum_detectable_paired_difference,
    paired_difference,
)


def needed_items(p: float, q: float, power: float, level: float) -> float:
    """Return n of each group as textbooks solve it: the inverse of what is tested."""
    z, w = norm.ppf((1 + level) / 2), norm.ppf(power)
    m = (p + q) / 2
    root = z * math.sqrt(2 * m * (1 - m)) + w * math.sqrt(p * (1 - p) + q * (1 - q))
    return float((root / (p - q)) ** 2)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 0.7, 0.93, 1.0])
@pytest.mark.parametrize(("power", "level"), [(0.8, 0.95), (0.9, 0.99)])
def test_the_difference_needs_just_as_many_items_as_there_are(
    rate: float, power: float, level: float
) -> None:
    found = minimum_detectable_difference(300, rate, power, level)
    other = rate + found if rate <= 0.5 else rate - found
    assert needed_items(rate, other, power, level) == pytest.approx(300, rel=1e-6)


def test_a_textbook_value() -> None:
    # 50 % against 70 % with power 80 % at 5 %: 93 items in each group.
    assert minimum_detectable_difference(93, 0.5) == pytest.approx(0.2, abs=1e-4)


def test_the_power_is_what_was_asked_for() -> None:
    num_items, rate = 400, 0.55
    other = rate - minimum_detectable_difference(num_items, rate)
    counts = np.arange(num_items + 1)
    a, b = np.meshgrid(counts, counts, indexing="ij")
    middle = (a + b) / (2 * num_items)
    error = np.sqrt(np.maximum(2 * middle * (1 - middle) / num_items, 1e-12))
    found = np.abs(a - b) / num_items > norm.ppf(0.975) * error
    law = np.outer(binom.pmf(counts, num_items, rate), binom.pmf(counts, num_items, other))
    assert float(law[found].sum()) == pytest.approx(0.8, abs=0.02)


def test_more_items_show_less_and_more_power_needs_more() -> None:
    found = [minimum_detectable_difference(n, 0.8) for n in (50, 100, 1_000, 10_000)]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 4
    assert minimum_detectable_difference(100, 0.8, power=0.9) > found[1]
    assert minimum_detectable_difference(100, 0.8, level=0.99) > found[1]


def test_proportions_and_their_complements_are_alike() -> None:
    one, other = (minimum_detectable_difference(82, rate) for rate in (0.37, 0.63))
    assert one == pytest.approx(other)


def test_too_few_items_show_nothing() -> None:
    assert math.isnan(minimum_detectable_difference(1, 0.5))
    assert math.isnan(minimum_detectable_paired_difference(2, 0.5))
    assert math.isnan(minimum_detectable_paired_difference(500, 0.0))


@pytest.mark.parametrize("discordant", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_the_power_of_the_exact_test_is_that_of_all_its_outcomes(
    discordant: float, power: float
) -> None:
    d = minimum_detectable_paired_difference(40, discordant, power)
    law = multinomial(40, [(discordant + d) / 2, (discordant - d) / 2, 1 - discordant])
    found = 0.0
    for a_only in range(41):
        for b_only in range(41 - a_only):
            if a_only + b_only and binomtest(a_only, a_only + b_only).pvalue <= 0.05:
                found += law.pmf([a_only, b_only, 40 - a_only - b_only])
    assert found == pytest.approx(power, abs=1e-6) or math.isnan(d)
    assert mcnemar_power(40, discordant, 0.0) < 0.05


def test_mcnemar_finds_the_paired_difference_about_as_often_as_asked_for() -> None:
    num_items, discordant = 500, 0.2
    d = minimum_detectable_paired_difference(num_items, discordant)
    shares = [(discordant + d) / 2, (discordant - d) / 2, 1 - discordant]
    draws = np.random.default_rng(0).multinomial(num_items, shares, size=400)
    found = 0
    for a_only, b_only, _ in draws:
        a = np.arange(a_only + b_only) < a_only
        found += mcnemar(a, ~a).p_value <= 0.05
    assert 0.74 <= found / 400 <= 0.86  # Binomial(400, 0.8) has deviation 0.02


def test_unrelated_errors_make_both_designs_alike() -> None:
    # Models of one rate whose errors are unrelated differ on 2 p (1 - p) of the items.
    paired = minimum_detectable_paired_difference(5_000, 2 * 0.6 * 0.4)
    assert paired == pytest.approx(minimum_detectable_difference(5_000, 0.6), rel=0.01)


def test_a_standard_error_gives_the_sum_of_the_quantiles_of_itself() -> None:
    assert detectable_by(0.5) == pytest.approx(0.5 * (1.959964 + 0.841621), rel=1e-5)


@pytest.mark.parametrize(("freedom", "power"), [(4, 0.8), (9, 0.9), (200, 0.8)])
def test_the_power_is_that_of_the_t_test(freedom: int, power: float) -> None:
    found = detectable_by(1.0, power, freedom=freedom)
    edge = t.ppf(0.975, freedom)
    assert nct.sf(edge, freedom, found) == pytest.approx(power)
    assert found > norm.ppf(0.975) + norm.ppf(power)


def test_exchanges_show_the_detectable_difference_as_often_as_asked_for() -> None:
    # 12 items: every exchange is tried. At 2.80 standard errors, as for a normal law, it is 0.72.
    rng, num_items, found = np.random.default_rng(1), 12, 0
    difference = detectable_by(1 / math.sqrt(num_items), freedom=num_items - 1)
    items = [str(item) for item in range(num_items)]
    for _ in range(400):
        a = mean("score", rng.normal(difference, 1, num_items))
        b = mean("score", np.zeros(num_items))
        found += paired_difference(a, b, items, Bootstrap(num_resamples=20)).p_value <= 0.05
    assert found / 400 >= 0.8 - 2 * 0.02


def test_a_standard_error_of_nothing_detects_nothing() -> None:
    assert math.isnan(detectable_by(0.0))
    assert math.isnan(detectable_by(math.nan))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.5, 0.8, 0.95), "n must be .* at least 1, found 0"),
        ((9, 1.5, 0.8, 0.95), "a rate must be a finite number .*, found 1.5"),
        ((9, 0.5, 0.4, 0.95), "power must be .* at least 0.5 and below 1, found 0.4"),
        ((9, 0.5, 0.8, 1.0), "level must be a finite number .*, found 1.0"),
    ],
)
def test_what_lies_out_of_range_is_refused(
    arguments: tuple[int, float, float, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        minimum_detectable_difference(*arguments)
    with pytest.raises(ValueError, match=message):
        minimum_detectable_paired_difference(*arguments)
