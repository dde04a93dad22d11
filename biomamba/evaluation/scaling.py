"""How held-out loss falls with the tokens of a run: L(D) = E + B / D**beta.

Source: Hoffmann et al., Training Compute-Optimal Large Language Models, section 3.3, for one size
of model. Deviation: plain least squares, because runs of one ladder are few and have no outliers
that a Huber loss could tell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from biomamba.metrics.measure import (
    Bootstrap,
    Interval,
    Measure,
    bootstrap_values,
    group_columns,
    percentile_interval,
)

MIN_RUNS = 4  # one more than there are parameters
MAX_EXPONENT = 3.0
_MIN_EXPONENT = 1e-3
_NOTHING = 1e-4  # a part of the loss that is none
_STARTS = (0.05, 0.15, 0.3, 0.6, 1.2)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A fit: floor E, loss above it at `unit_tokens`, exponent beta."""

    floor: float
    height: float
    exponent: float
    unit_tokens: float

    def at(self, tokens: Floats) -> Floats:
        """Return the loss at these numbers of tokens."""
        found: Floats = self.floor + self.height * (tokens / self.unit_tokens) ** -self.exponent
        return found

    @property
    def coefficient(self) -> float:
        """B of the formula, for D in tokens."""
        return float(self.height * self.unit_tokens**self.exponent)

    @property
    def is_bound(self) -> bool:
        """Whether the losses do not tell the parameters: one is at the end of its range."""
        is_known = 2 * _MIN_EXPONENT < self.exponent < 0.99 * MAX_EXPONENT
        return not is_known or min(self.floor, self.height) < _NOTHING * (self.floor + self.height)


@dataclass(frozen=True)
class ScalingFit:
    """A fit with the intervals of its parameters over documents, and over seeds where there are.

    Attributes:
        tokens, losses: What was fitted, the fewest tokens first; one of each per run.
        per_doubling: How much the loss changes, on average over the range, if tokens double: the
            slope of a straight line over the logarithm of tokens, which any such losses tell.
        residual: Root of the mean squared residual.
    """

    curve: Curve
    tokens: Floats
    losses: Floats
    floor: Interval
    coefficient: Interval
    exponent: Interval
    per_doubling: Interval
    residual: float

    @property
    def is_told(self) -> bool:
        """Whether the losses tell E from B: no parameter, nor a bound, is at its end."""
        is_free = self.exponent.high < 0.99 * MAX_EXPONENT and self.floor.low > _NOTHING
        return not self.curve.is_bound and is_free and self.exponent.low > 2 * _MIN_EXPONENT


def fit_curve(tokens: Floats, losses: Floats, start: Curve | None = None) -> Curve:
    """Return the least-squares fit; tokens and losses are (runs,)."""
    unit = float(np.exp(np.log(tokens).mean()))
    scaled = tokens / unit

    def residuals(parameters: Floats) -> Floats:
        floor, height, exponent = parameters
        found: Floats = floor + height * scaled**-exponent - losses
        return found

    exponents = _STARTS if start is None else (start.exponent,)
    bounds = ([0.0, 0.0, _MIN_EXPONENT], [np.inf, np.inf, MAX_EXPONENT])
    fits = [
        least_squares(residuals, _start(scaled, losses, each), bounds=bounds, x_scale=(1, 0.1, 0.1))
        for each in exponents
    ]
    floor, height, exponent = min(fits, key=lambda fit: float(fit.cost)).x
    return Curve(float(floor), float(height), float(exponent), unit)


def fit_scaling(
    tokens: Sequence[float],
    measures: Sequence[Sequence[Measure]],
    units: Sequence[str],
    bootstrap: Bootstrap,
) -> ScalingFit:
    """Fit the losses of runs on the same items, and again on every resample of their units.

    measures holds the seeds of each number of tokens: every run is a point of one fit. Where there
    are several, each resample adds a deviation to every run, drawn from those of all seeds from the
    means of their sizes (widened by sqrt(n / (n - 1)), as a mean of n has taken up some of them).

    Raises:
        ValueError: There are fewer than MIN_RUNS different numbers of tokens.
    """
    if len(set(tokens)) < MIN_RUNS:
        raise ValueError(f"a fit needs {MIN_RUNS} different numbers of tokens, got {len(tokens)}")
    order = [int(index) for index in np.argsort(tokens, kind="stable")]
    sizes = [measures[index] for index in order]
    counts = [len(seeds) for seeds in sizes]
    places = np.repeat(np.array(tokens, dtype=np.float64)[order], counts)
    runs = [measure for seeds in sizes for measure in seeds]
    losses = np.array([measure.value for measure in runs])
    # The same documents are drawn for every model.
    drawn = np.stack(
        [bootstrap_values(group_columns(m, units).columns, m.statistic, bootstrap) for m in runs],
        axis=1,
    )
    num_groups = len(set(units))
    drawn = _with_seeds(drawn, losses, counts, bootstrap)
    curve = fit_curve(places, losses)
    resampled = [fit_curve(places, each, curve) for each in drawn]
    slopes = np.polyfit(np.log2(places), drawn.T, 1)[0]
    slope = float(np.polyfit(np.log2(places), losses, 1)[0])

    def interval(name: str) -> Interval:
        values = np.array([getattr(each, name) for each in resampled])
        return percentile_interval(getattr(curve, name), values, bootstrap.level, num_groups)

    return ScalingFit(
        curve=curve,
        tokens=places,
        losses=losses,
        floor=interval("floor"),
        coefficient=interval("coefficient"),
        exponent=interval("exponent"),
        per_doubling=percentile_interval(slope, slopes, bootstrap.level, num_groups),
        residual=float(np.sqrt(np.mean((curve.at(places) - losses) ** 2))),
    )


def _with_seeds(
    drawn: Floats, losses: Floats, counts: Sequence[int], bootstrap: Bootstrap
) -> Floats:
    """Return resamples (resamples, runs) about other seeds too; each size keeps its mean."""
    parts = np.split(losses, np.cumsum(counts)[:-1])
    deviations = [
        (part - part.mean()) * math.sqrt(len(part) / (len(part) - 1))
        for part in parts
        if len(part) > 1
    ]
    if not deviations:
        return drawn
    means = [
        np.repeat(part.mean(axis=1, keepdims=True), part.shape[1], axis=1)
        for part in np.split(drawn, np.cumsum(counts)[:-1], axis=1)
    ]
    rng = np.random.Generator(np.random.Philox([bootstrap.seed, 2]))  # not the bootstrap's draws
    found: Floats = np.concatenate(means, axis=1)
    found = found + rng.choice(np.concatenate(deviations), size=drawn.shape)
    return found


def _start(scaled: Floats, losses: Floats, exponent: float) -> Floats:
    """Return floor and height that fit best with an exponent, within their bounds."""
    columns = np.stack([np.ones_like(scaled), scaled**-exponent], axis=1)
    floor, height = np.linalg.lstsq(columns, losses, rcond=None)[0]
    return np.array([max(floor, 1e-6), max(height, 1e-6), exponent])
