"""How small a difference a test set can show: the size that is found with a given power.

A difference below it may well exist and not be seen; "no significant difference" then says little.
"""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import binom, nct, t

from biomamba.runtime.numbers import check_number, check_whole

_NEARLY_NORMAL = 1e6  # degrees of freedom


def minimum_detectable_difference(
    n: int, rate: float, power: float = 0.8, level: float = 0.95
) -> float:
    """Return the smallest difference in a proportion to a model of other answers on n items each.

    The other model is taken to lie towards 1/2, where proportions scatter most, and its errors to
    be unrelated; errors that fall on the same items show smaller differences
    (minimum_detectable_paired_difference). nan if n items show no difference at all.
    Source: Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions, 3rd edition,
    equation 4.14, without continuity correction.

    Raises:
        ValueError: a number is out of its range.
    """
    _check(n, rate, power, level)
    z_level, z_power = _quantiles(power, level)
    sign = 1 if rate <= 0.5 else -1
    largest = 1 - rate if sign > 0 else rate

    def shortfall(difference: float) -> float:
        other = rate + sign * difference
        middle = (rate + other) / 2
        together = z_level * math.sqrt(2 * middle * (1 - middle))
        apart = z_power * math.sqrt(rate * (1 - rate) + max(0.0, other * (1 - other)))
        return together + apart - difference * math.sqrt(n)

    if shortfall(largest) > 0:
        return math.nan
    return float(brentq(shortfall, 1e-12, largest, xtol=1e-12))


def minimum_detectable_paired_difference(
    n: int, discordant_ratio: float, power: float = 0.8, level: float = 0.95
) -> float:
    """Return the smallest difference in a proportion that McNemar's exact test shows on n items.

    discordant_ratio is the share of items on which exactly one of the models is right. nan if n
    items show no difference at all. The power is that of the exact test itself, summed over how
    many items may differ and which model is right on them; the normal law (Connor 1987) promises
    80 % where the exact test has 76 to 78 %.

    Raises:
        ValueError: a number is out of its range.
    """
    _check(n, discordant_ratio, power, level)
    if mcnemar_power(n, discordant_ratio, discordant_ratio, level) < power:
        return math.nan

    def excess(difference: float) -> float:
        return mcnemar_power(n, discordant_ratio, difference, level) - power

    return float(brentq(excess, 0.0, discordant_ratio, xtol=1e-9))


def mcnemar_power(n: int, discordant_ratio: float, difference: float, level: float = 0.95) -> float:
    """Return how often McNemar's exact test on n items calls models different.

    Exactly one model is right on a share discordant_ratio of all items, and their shares of right
    answers differ by difference.
    """
    if discordant_ratio == 0:
        return 0.0
    width = 8 * math.sqrt(n * discordant_ratio * (1 - discordant_ratio)) + 8
    middle = n * discordant_ratio
    counts = np.arange(max(0, int(middle - width)), min(n, int(middle + width)) + 1)
    share = (1 + difference / discordant_ratio) / 2  # of the discordant items, won by the better
    # The largest count in a tail that the two-sided test still refuses; -1 without one.
    edge = binom.ppf((1 - level) / 2, counts, 0.5).astype(np.int64)
    edge -= 2 * binom.cdf(edge, counts, 0.5) > 1 - level
    refused = binom.cdf(edge, counts, share) + binom.cdf(edge, counts, 1 - share)
    return float((binom.pmf(counts, n, discordant_ratio) * refused).sum())


def detectable_by(
    standard_error: float, power: float = 0.8, level: float = 0.95, *, freedom: float = math.inf
) -> float:
    """Return the smallest difference that a test shows whose statistic is nearly Student's t.

    The test that exchanges the answers of two models is one: its p value is a function of the
    difference over its standard error. The power is that of noncentral t. nan without a standard
    error, also if it is 0: figures that never vary tell nothing of it.

    Args:
        standard_error: Of the difference.
        power: How often the test shall show it.
        level: One minus the level of the test.
        freedom: Degrees of freedom of the standard error.
    """
    _check(1, 0.0, power, level)
    if not (standard_error > 0 and freedom > 0):
        return math.nan
    freedom = min(freedom, _NEARLY_NORMAL)
    edge = float(t.ppf((1 + level) / 2, freedom))

    def excess(shift: float) -> float:
        return float(nct.sf(edge, freedom, shift)) - power

    return standard_error * float(brentq(excess, 0.0, 4 * edge + 10))


def _quantiles(power: float, level: float) -> tuple[float, float]:
    return float(ndtri((1 + level) / 2)), float(ndtri(power))


def _check(n: int, rate: float, power: float, level: float) -> None:
    check_whole("n", n)
    check_number("a rate", rate, at_least=0, at_most=1)
    check_number("power", power, at_least=0.5, below=1)
    check_number("level", level, above=0, below=1)
