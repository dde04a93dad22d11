"""How held-out loss falls with the tokens of a run: L(D) = E + B / D**beta.

Source: Hoffmann et al., Training Compute-Optimal Large Language Models, section 3.3, for one size
of model. Deviation: plain least squares, because runs of one ladder are few and have no outliers
that a Huber loss could tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from biomamba.metrics.grouped import group_columns
from biomamba.metrics.interval import Bootstrap, Interval, bootstrap_values, percentile_interval
from biomamba.metrics.measure import Measure

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
        """Whether the losses do not tell the parameters: one lies at the end of its range."""
        is_known = 2 * _MIN_EXPONENT < self.exponent < 0.99 * MAX_EXPONENT
        return not is_known or min(self.floor, self.height) < _NOTHING * (self.floor + self.height)


@dataclass(frozen=True)
class ScalingFit:
    """A fit with the intervals of its parameters over documents.

    Attributes:
        tokens, losses: What was fitted, the fewest tokens first.
        residual: Root of the mean squared residual.
    """

    curve: Curve
    tokens: Floats
    losses: Floats
    floor: Interval
    coefficient: Interval
    exponent: Interval
    residual: float


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
    tokens: Sequence[float], measures: Sequence[Measure], units: Sequence[str], bootstrap: Bootstrap
) -> ScalingFit:
    """Fit the loss of models on the same items, and again on every resample of their units.

    Raises:
        ValueError: There are fewer than MIN_RUNS different numbers of tokens.
    """
    if len(set(tokens)) < MIN_RUNS:
        raise ValueError(f"a fit needs {MIN_RUNS} different numbers of tokens, got {len(tokens)}")
    order = np.argsort(tokens)
    places = np.array(tokens, dtype=np.float64)[order]
    ordered = [measures[index] for index in order]
    losses = np.array([measure.value for measure in ordered])
    # The same documents are drawn for every model.
    drawn = np.stack(
        [
            bootstrap_values(group_columns(m, units).columns, m.statistic, bootstrap)
            for m in ordered
        ],
        axis=1,
    )
    curve = fit_curve(places, losses)
    resampled = [fit_curve(places, each, curve) for each in drawn]

    def interval(name: str) -> Interval:
        values = np.array([getattr(each, name) for each in resampled])
        return percentile_interval(getattr(curve, name), values, bootstrap.level)

    return ScalingFit(
        curve=curve,
        tokens=places,
        losses=losses,
        floor=interval("floor"),
        coefficient=interval("coefficient"),
        exponent=interval("exponent"),
        residual=float(np.sqrt(np.mean((curve.at(places) - losses) ** 2))),
    )


def _start(scaled: Floats, losses: Floats, exponent: float) -> Floats:
    """Return floor and height that fit best with an exponent, within their bounds."""
    columns = np.stack([np.ones_like(scaled), scaled**-exponent], axis=1)
    floor, height = np.linalg.lstsq(columns, losses, rcond=None)[0]
    return np.array([max(floor, 1e-6), max(height, 1e-6), exponent])
