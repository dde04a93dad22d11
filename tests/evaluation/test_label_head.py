"""Heads are the optimum that they claim to be, and validation chooses their strength alone."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import check_grad

from biomamba.evaluation import label_head
from biomamba.evaluation.label_head import (
    GRADIENT_TOLERANCE,
    STRENGTHS,
    Floats,
    HeadOptions,
    LabelledFeatures,
    Scale,
    fit_label_head,
    fit_weights,
    objective,
)
from biomamba.runtime.errors import ConfigError, DataError

LABELS = ("yes", "no", "maybe")
PLAIN = HeadOptions(class_weighted=False)


def drawn(num_items: int, seed: int = 0, width: int = 5) -> LabelledFeatures:
    """Return items whose labels have something to do with their features; all labels occur."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_items, width)) * 3 + 2
    scores = features @ np.random.default_rng(9).normal(size=(width, 3))
    labels = (scores + 4 * rng.normal(size=scores.shape)).argmax(1)
    labels[:3] = [0, 1, 2]
    return LabelledFeatures(features, labels)


def chosen(data: LabelledFeatures, index: Sequence[int]) -> LabelledFeatures:
    return LabelledFeatures(data.features[index], data.labels[index])


def ones(data: LabelledFeatures) -> Floats:
    return np.ones(len(data.labels))


def farthest(strength: float, num_weights: int) -> float:
    """Return how far two weights of gradient <= GRADIENT_TOLERANCE can be from each other.

    Each is within |gradient|_2 / strength of the optimum, and |g|_2 <= sqrt(n) max |g|.
    """
    return 2 * num_weights**0.5 * GRADIENT_TOLERANCE / strength


def test_the_gradient_is_that_of_the_objective() -> None:
    train, weights = drawn(20), np.random.default_rng(1).normal(size=18) / 3
    item_weights = np.linspace(0.5, 2, 20)
    error = check_grad(
        lambda flat: objective(flat.reshape(3, 6), train, item_weights, 0.3)[0],
        lambda flat: objective(flat.reshape(3, 6), train, item_weights, 0.3)[1].ravel(),
        weights,
    )
    # Forward differences with h = 1.5e-8: h / 2 times a curvature below |x|^2 ~ 100 per entry.
    assert error < 18 * 100 * 1.5e-8


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_gradient_at_the_optimum_is_zero(strength: float) -> None:
    train = drawn(40)
    weights = fit_weights(train, ones(train), strength)
    value, gradient = objective(weights, train, ones(train), strength)

    assert np.abs(gradient).max() <= GRADIENT_TOLERANCE
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = weights + 0.1 * rng.normal(size=weights.shape)
        assert objective(other, train, ones(train), strength)[0] > value


def test_one_item_of_each_of_two_labels_has_a_known_optimum() -> None:
    # x = +1 and -1 with weights (w, -w), no bias: 0 = -sigmoid(-2w) + strength * w. At w = 1 / 2
    # this is strength = 2 sigmoid(-1).
    train = LabelledFeatures(np.array([[1.0], [-1.0]]), np.array([0, 1]))
    strength = 2 / (1 + np.e)
    weights = fit_weights(train, ones(train), strength)

    limit = farthest(strength, 2)
    assert weights == pytest.approx(np.array([[0.5, 0], [-0.5, 0]]), abs=limit)


def test_a_strong_l2_leaves_the_shares_of_the_labels() -> None:
    train = LabelledFeatures(
        np.random.default_rng(0).normal(size=(6, 2)), np.array([0] * 4 + [1, 2])
    )
    weights = fit_weights(train, ones(train), 1e9)

    log_p = weights[:, -1] - np.log(np.exp(weights[:, -1]).sum())
    assert np.exp(log_p) == pytest.approx([4 / 6, 1 / 6, 1 / 6], abs=1e-6)


def test_separable_items_are_all_right_with_little_l2() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    centres = np.array([[0.0, 0], [1, 0], [0, 1]])
    train = LabelledFeatures(centres[labels] + 0.1 * rng.uniform(-1, 1, size=(60, 2)), labels)
    head = fit_label_head(LABELS, train, train, PLAIN)

    assert head.strength == min(STRENGTHS)  # on its own items, less is always better
    assert (head.log_probabilities(train.features).argmax(1) == labels).all()
    assert list(head.val_nll.values()) == sorted(head.val_nll.values(), reverse=True)


def test_weights_of_items_are_repetitions() -> None:
    train = drawn(30)
    repeats = np.arange(30) % 3 + 1
    repeated = chosen(train, np.repeat(np.arange(30), repeats).tolist())
    for strength in (1.0, 0.01):
        weighted = fit_weights(train, repeats.astype(float), strength)
        found = fit_weights(repeated, ones(repeated), strength)
        # The biases are as close as the weights: they follow from them.
        assert weighted == pytest.approx(found, abs=10 * farthest(strength, 18))
        assert np.abs(weighted - fit_weights(train, ones(train), strength)).max() > 0.01


def test_class_weights_count_labels_alike() -> None:
    # 4 of `yes`, 2 of `no`, 1 of `maybe`: as if they were repeated 1, 2 and 4 times.
    data = drawn(60)
    index = [n for label, size in enumerate((4, 2, 1)) for n in _first(data, label, size)]
    train = chosen(data, index)
    head = fit_label_head(LABELS, train, drawn(20, seed=1), HeadOptions(class_weighted=True))
    repeated = chosen(train, np.repeat(np.arange(7), [1] * 4 + [2] * 2 + [4]).tolist())
    scaled = replace(repeated, features=head.scale(repeated.features))
    expected = fit_weights(scaled, ones(repeated), head.strength)

    assert head.weights == pytest.approx(expected, abs=10 * farthest(head.strength, 18))
    plain = fit_label_head(LABELS, train, drawn(20, seed=1), PLAIN)
    assert np.abs(plain.weights - head.weights).max() > 0.01


def _first(data: LabelledFeatures, label: int, size: int) -> list[int]:
    found: list[int] = np.flatnonzero(data.labels == label)[:size].tolist()
    assert len(found) == size
    return found


def test_the_order_of_training_items_does_not_matter() -> None:
    train, val = drawn(50), drawn(20, seed=1)
    head = fit_label_head(LABELS, train, val, HeadOptions())
    order = np.random.default_rng(5).permutation(50).tolist()
    other = fit_label_head(LABELS, chosen(train, order), val, HeadOptions())

    assert other.strength == head.strength
    assert other.weights == pytest.approx(head.weights, abs=10 * farthest(head.strength, 18))


def test_the_same_features_give_the_same_bits() -> None:
    heads = [fit_label_head(LABELS, drawn(50), drawn(20, seed=1), HeadOptions()) for _ in "ab"]

    assert heads[0].weights.tobytes() == heads[1].weights.tobytes()
    assert heads[0].sha256 == heads[1].sha256


@pytest.mark.parametrize("options", [HeadOptions(), PLAIN])
def test_validation_decides_the_strength_and_nothing_else(options: HeadOptions) -> None:
    train = drawn(50)
    vals = [drawn(30, seed=3), chosen(train, range(50)), drawn(30, seed=4)]
    vals[2] = replace(vals[2], labels=vals[2].labels[::-1].copy())  # labels of other items
    heads = [fit_label_head(LABELS, train, val, options) for val in vals]

    assert len({head.strength for head in heads}) > 1
    counts = np.bincount(train.labels)
    weight_of = 1 / counts if options.class_weighted else np.ones(3)
    for head, val in zip(heads, vals, strict=True):
        assert head.strength == min(head.val_nll, key=head.val_nll.__getitem__)
        log_p = head.log_probabilities(val.features)[np.arange(len(val.labels)), val.labels]
        weights = weight_of[val.labels]
        nll = -(weights * log_p).sum() / weights.sum()
        assert head.val_nll[head.strength] == pytest.approx(nll, rel=1e-12)
        # The weights are those of training at that strength, whatever validation held.
        scaled = replace(train, features=head.scale(train.features))
        item_weights = weight_of[train.labels]
        _, gradient = objective(head.weights, scaled, item_weights, head.strength)
        assert np.abs(gradient).max() <= GRADIENT_TOLERANCE
        assert head.scale.mean == pytest.approx(train.features.mean(0))


def test_of_equal_strengths_the_largest_is_taken() -> None:
    train = drawn(12)
    constant = replace(train, features=np.full((12, 5), 0.1))
    head = fit_label_head(LABELS, constant, drawn(9, seed=1), PLAIN)

    assert head.strength == max(STRENGTHS)


def test_features_are_standardised_by_training_and_constants_vanish() -> None:
    train = drawn(50)
    features = np.column_stack([train.features, np.full(50, 0.1)])  # 0.1 is rounded: spread > 0?
    scale = Scale.of(features)

    scaled = scale(features)
    assert scaled[:, :5].mean(0) == pytest.approx(np.zeros(5), abs=1e-12)
    assert scaled[:, :5].std(0) == pytest.approx(np.ones(5), abs=1e-12)
    assert not scaled[:, 5].any()
    assert not scale(features + 7)[:, 5].any()


def test_scale_and_shift_of_features_change_no_answer() -> None:
    train, val = drawn(50), drawn(20, seed=1)
    head = fit_label_head(LABELS, train, val, HeadOptions())
    factor = np.array([1e-3, 1, 50, -2, 7])
    moved = [replace(data, features=data.features * factor - 3) for data in (train, val)]
    other = fit_label_head(LABELS, moved[0], moved[1], HeadOptions())

    assert other.log_probabilities(moved[1].features) == pytest.approx(
        head.log_probabilities(val.features), abs=1e-4
    )


def test_log_probabilities_add_up_and_do_not_depend_on_the_batch() -> None:
    head, val = fit_label_head(LABELS, drawn(50), drawn(20, seed=1), PLAIN), drawn(20, seed=2)
    together = head.log_probabilities(val.features)

    assert np.exp(together).sum(1) == pytest.approx(np.ones(20), abs=1e-12)
    for number in range(20):
        alone = head.log_probabilities(val.features[number : number + 1])
        assert alone[0] == pytest.approx(together[number], abs=1e-12)


def test_a_record_says_what_was_fitted() -> None:
    head = fit_label_head(LABELS, drawn(50), drawn(20, seed=1), HeadOptions(pooling="max"))
    said = head.described()

    assert json.loads(json.dumps(said)) == said
    assert (said["pooling"], said["class_weighted"]) == ("max", True)
    assert (said["num_train"], said["num_val"], said["num_features"]) == (50, 20, 5)
    assert said["l2_grid"] == list(STRENGTHS)
    assert said["val_nll"][STRENGTHS.index(said["l2"])] == min(said["val_nll"])
    assert said["sha256"] == head.sha256


def test_the_digest_is_of_all_that_decides_answers() -> None:
    head = fit_label_head(LABELS, drawn(50), drawn(20, seed=1), PLAIN)
    moved = head.weights.copy()
    moved[0, 0] = np.nextafter(moved[0, 0], 9)
    others = [
        replace(head, weights=moved),
        replace(head, labels=("no", "yes", "maybe")),
        replace(head, options=replace(PLAIN, pooling="mean")),
        replace(head, scale=replace(head.scale, mean=head.scale.mean + 1)),
        replace(head, scale=replace(head.scale, factor=head.scale.factor * 2)),
    ]

    assert len({found.sha256 for found in (head, *others)}) == 6


def test_what_no_head_can_be_fitted_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = drawn(30), drawn(9, seed=1)
    without = chosen(train, np.flatnonzero(train.labels != 1).tolist())
    with pytest.raises(DataError, match=r"no training item has the label \['no'\]"):
        fit_label_head(LABELS, without, val, PLAIN)
    broken = replace(val, features=val.features * np.nan)
    with pytest.raises(DataError, match="hidden states of val items are not finite"):
        fit_label_head(LABELS, train, broken, PLAIN)
    with pytest.raises(ConfigError, match=r"head.pooling is 'attention'; allowed: last, mean, max"):
        HeadOptions(pooling="attention")
    monkeypatch.setattr(label_head, "_MAX_STEPS", 1)
    with pytest.raises(DataError, match="no optimum that could be reached"):
        fit_weights(train, ones(train), 1e-4)
