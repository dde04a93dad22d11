"""A linear classification head on the features of prompts: fitted once, exactly, then asked.

Features are standardized by those of the training items. Weights W and biases b minimize

    sum_i w_i nll_i / sum_i w_i + l2 / 2 |W|^2

with w_i = 1, or one over the number of training items of the label of item i: all labels then count
alike. The function is strictly convex in W, so the optimum does not depend on a seed or an order.
Source: the classification head of BioMamba (frozen strategy, weighted cross-entropy).
Deviation: linear, on the last hidden states, of a frozen model only; theirs is a two-layer
perceptron over the last four layers, trained with dropout, also together with adapters or all
weights. A head on a tuned model is one with that model as the checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from biomamba.evaluation.answer_model import POOLINGS
from biomamba.runtime.errors import ConfigError, DataError

Floats = NDArray[np.float64]
# From a constant answer to weights that fit any labels of a few hundred items.
STRENGTHS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
# Largest entry of the gradient at what counts as the optimum. With l2 = s the weights are within
# |gradient| / s of it, since the curvature along W is at least s.
GRADIENT_TOLERANCE = 1e-7
_STOP_AT = 1e-9
_MAX_STEPS = 20_000
_IS_CONSTANT = 1e-10  # spread of a feature relative to its size: nothing but rounding


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """How a head is fitted.

    Attributes:
        pooling: Of the hidden states after a prompt: `last`, `mean` or `max` over its positions.
        class_weighted: All labels count alike, however many training items each has.

    Raises:
        ConfigError: The pooling is not known.
    """

    pooling: str = "last"
    class_weighted: bool = True

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ConfigError(f"head.pooling is {self.pooling!r}; allowed: {', '.join(POOLINGS)}")


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (items, width) and the number of the label of each item (items,)."""

    features: Floats
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Scale:
    """Standardizes features; one that does not vary in training becomes 0.

    Attributes:
        mean: (width,)
        factor: One over the standard deviation, (width,).
    """

    mean: Floats
    factor: Floats

    @classmethod
    def of(cls, features: Floats) -> "Scale":
        """Return the scale of training features (items, width)."""
        spread = features.std(0)
        varies = spread > _IS_CONSTANT * np.abs(features).max(0)
        return cls(features.mean(0), np.where(varies, 1 / np.where(varies, spread, 1), 0))

    def __call__(self, features: Floats) -> Floats:
        """Return standardized features."""
        scaled: Floats = (features - self.mean) * self.factor
        return scaled


@dataclass(frozen=True)
class LabelHead:
    """A fitted head.

    Attributes:
        labels: In the order of the rows of `weights`.
        options: How it was fitted.
        scale: Of the features.
        weights: (labels, width + 1); the last column holds the biases.
        strength: The l2 that was chosen.
        val_nll: Of every strength, in nats, weighted as in training.
        num_train: Items it was fitted on.
        num_val: Items that the strength was chosen on.
    """

    labels: Sequence[str]
    options: HeadOptions
    scale: Scale
    weights: Floats
    strength: float
    val_nll: Mapping[float, float]
    num_train: int
    num_val: int

    def log_probabilities(self, features: Floats) -> Floats:
        """Return the log-probability of every label (items, labels)."""
        return _log_probabilities(self.weights, self.scale(features))

    @property
    def sha256(self) -> str:
        """sha256 over all that decides what the head says."""
        settings = repr((tuple(self.labels), self.options.pooling, self.weights.shape))
        parts = (self.scale.mean, self.scale.factor, self.weights)
        arrays = b"".join(np.ascontiguousarray(part, dtype="<f8").tobytes() for part in parts)
        return sha256(settings.encode() + arrays).hexdigest()

    def described(self) -> dict[str, Any]:
        """Return what a record says of it, as plain values."""
        return {
            "pooling": self.options.pooling,
            "class_weighted": self.options.class_weighted,
            "l2": self.strength,
            "l2_grid": list(self.val_nll),
            "l2_chosen_on": "val",
            "val_nll": list(self.val_nll.values()),
            "num_train": self.num_train,
            "num_val": self.num_val,
            "num_features": self.weights.shape[1] - 1,
            "sha256": self.sha256,
        }


def fit_label_head(
    labels: Sequence[str], train: LabelledFeatures, val: LabelledFeatures, options: HeadOptions
) -> LabelHead:
    """Fit a head on training items; those of validation choose nothing but the strength of l2.

    Of equally good strengths the largest is taken.

    Raises:
        DataError: A label has no training item, a feature is not finite, or no optimum was found.
    """
    for found, split in ((train, "train"), (val, "val")):
        if not np.isfinite(found.features).all():
            raise DataError(f"hidden states of {split} items are not finite: damaged weights?")
    counts = np.bincount(train.labels, minlength=len(labels))
    missing = [label for label, count in zip(labels, counts, strict=True) if not count]
    if missing:
        raise DataError(
            f"no training item has the label {missing}, so a head cannot learn it; ask with "
            "answers=likelihood"
        )
    weight_of = 1 / counts if options.class_weighted else np.ones(len(labels))
    scale = Scale.of(train.features)
    scaled = LabelledFeatures(scale(train.features), train.labels)
    scaled_val = scale(val.features)
    weights, fitted, val_nll = None, {}, {}
    for strength in STRENGTHS:  # from strong to weak: each starts where the one before ended
        weights = fit_weights(scaled, weight_of[train.labels], strength, start=weights)
        fitted[strength] = weights
        val_nll[strength] = _mean_nll(
            _log_probabilities(weights, scaled_val), val.labels, weight_of[val.labels]
        )
    best = min(STRENGTHS, key=val_nll.__getitem__)
    return LabelHead(
        labels=labels,
        options=options,
        scale=scale,
        weights=fitted[best],
        strength=best,
        val_nll=val_nll,
        num_train=len(train.labels),
        num_val=len(val.labels),
    )


def fit_weights(
    train: LabelledFeatures, item_weights: Floats, strength: float, start: Floats | None = None
) -> Floats:
    """Return the weights (labels, width + 1) at the optimum, biases last.

    Labels are numbered without a gap. The gradient there has no entry above GRADIENT_TOLERANCE.

    Raises:
        DataError: No such weights were found.
    """
    num_labels, width = int(train.labels.max()) + 1, train.features.shape[1]
    shape = (num_labels, width + 1)

    def value(flat: Floats) -> tuple[float, Floats]:
        found, gradient = objective(flat.reshape(shape), train, item_weights, strength)
        return found, gradient.ravel()

    begin = np.zeros(shape) if start is None else start
    steps = {"maxiter": _MAX_STEPS, "maxfun": _MAX_STEPS, "maxcor": 30}
    limits = {**steps, "ftol": 0.0, "gtol": _STOP_AT}
    found = minimize(value, begin.ravel(), jac=True, method="L-BFGS-B", options=limits)
    weights: Floats = found.x.reshape(shape)
    largest = float(np.abs(value(found.x)[1]).max())
    if not largest <= GRADIENT_TOLERANCE:
        raise DataError(
            f"the head with l2={strength:g} has no optimum that could be reached: the gradient is "
            f"{largest:.1e} after {found.nit} steps, at most {GRADIENT_TOLERANCE:.0e} is allowed"
        )
    return weights


def objective(
    weights: Floats, train: LabelledFeatures, item_weights: Floats, strength: float
) -> tuple[float, Floats]:
    """Return what is minimized, and its gradient (labels, width + 1)."""
    log_p = _log_probabilities(weights, train.features)
    penalised = weights.copy()
    penalised[:, -1] = 0  # biases are free
    errors = np.exp(log_p)
    errors[np.arange(len(train.labels)), train.labels] -= 1
    errors *= (item_weights / item_weights.sum())[:, None]
    gradient = strength * penalised
    gradient[:, :-1] += errors.T @ train.features
    gradient[:, -1] += errors.sum(0)
    nll = _mean_nll(log_p, train.labels, item_weights)
    return nll + strength / 2 * float((penalised**2).sum()), gradient


def _log_probabilities(weights: Floats, features: Floats) -> Floats:
    scores: Floats = log_softmax(features @ weights[:, :-1].T + weights[:, -1], axis=1)
    return scores


def _mean_nll(log_p: Floats, labels: NDArray[np.int64], item_weights: Floats) -> float:
    """Return the weighted mean of the nll (nats) of the labels."""
    chosen = log_p[np.arange(len(labels)), labels]
    return float(-(item_weights * chosen).sum() / item_weights.sum())
