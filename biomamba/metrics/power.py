"""How small a difference a test set can show: the size that is found with a given power.

A difference below it may well exist and not be seen; "no significant difference" then says little.
"""

import math

from scipy.optimize import brentq
from scipy.special import ndtri

from biomamba.runtime.numbers import check_number, check_whole


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
    """Return the smallest difference in a proportion that McNemar's test shows on n items.

    discordant_ratio is the share of items on which exactly one of the models is right. nan if n
    items show no difference at all.
    Source: Connor, Sample size for testing differences in proportions for the paired-sample design,
    Biometrics 43, 1987: n d**2 = (z_level sqrt(r) + z_power sqrt(r - d**2))**2, solved for d.

    Raises:
        ValueError: a number is out of its range.
    """
    _check(n, discordant_ratio, power, level)
    z_level, z_power = _quantiles(power, level)
    inner = n - z_level**2 + z_power**2
    if inner < 0:
        return math.nan
    root = z_level * math.sqrt(n) + z_power * math.sqrt(inner)
    difference = math.sqrt(discordant_ratio) * root / (n + z_power**2)
    return difference if 0 < difference <= discordant_ratio else math.nan


def detectable_by(standard_error: float, power: float = 0.8, level: float = 0.95) -> float:
    """Return the smallest difference shown by an estimate of this standard error, nearly normal.

    nan without a standard error, also if it is 0: figures that never vary tell nothing of it.
    """
    _check(1, 0.0, power, level)
    return sum(_quantiles(power, level)) * standard_error if standard_error > 0 else math.nan


def _quantiles(power: float, level: float) -> tuple[float, float]:
    return float(ndtri((1 + level) / 2)), float(ndtri(power))


def _check(n: int, rate: float, power: float, level: float) -> None:
    check_whole("n", n)
    check_number("a rate", rate, at_least=0, at_most=1)
    check_number("power", power, at_least=0.5, below=1)
    check_number("level", level, above=0, below=1)
