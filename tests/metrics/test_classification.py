"""Accuracy, F1, precision and recall of labels."""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from biomamba.metrics.classification import (
    accuracy,
    label_measures,
    macro_f1,
    per_label,
    unparsable_ratio,
)
from biomamba.metrics.measure import Bootstrap, Measure, bootstrap_interval

LABELS = ("yes", "no", "maybe")


def drawn(seed: int, size: int = 60) -> tuple[list[str], list[str | None]]:
    rng = random.Random(seed)
    return rng.choices(LABELS, k=size), rng.choices([*LABELS, None], k=size)


def f1_by_definition(label: str, truths: Sequence[str], answers: Sequence[str | None]) -> float:
    pairs = list(zip(truths, answers, strict=True))
    hits = sum(truth == answer == label for truth, answer in pairs)
    if hits == 0:
        return 0.0
    precision = hits / sum(answer == label for answer in answers)
    recall = hits / sum(truth == label for truth in truths)
    return 2 * precision * recall / (precision + recall)


def values(measures: Sequence[Measure]) -> dict[str, float]:
    return {measure.name: measure.value for measure in measures}


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_the_mean_of_the_f1_of_the_definition(seed: int) -> None:
    truths, answers = drawn(seed)

    expected = [f1_by_definition(label, truths, answers) for label in LABELS]

    assert macro_f1(LABELS, truths, answers).value == pytest.approx(np.mean(expected), abs=1e-12)
    found = values(per_label(LABELS, truths, answers))
    assert [found[f"f1_{label}"] for label in LABELS] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_figures_of_a_resample_are_those_of_its_items(seed: int) -> None:
    truths, answers = drawn(seed)
    picked = np.random.default_rng(seed).integers(0, len(truths), len(truths))
    counts = np.bincount(picked, minlength=len(truths)).astype(float)[None]
    again = [truths[i] for i in picked], [answers[i] for i in picked]

    whole = label_measures(LABELS, truths, answers)
    resampled = values(label_measures(LABELS, *again))

    for measure in whole:
        value = float(measure.statistic(counts @ measure.columns)[0])
        assert value == pytest.approx(resampled[measure.name], abs=1e-12), measure.name


def test_an_unparsable_answer_is_wrong_for_its_class_and_adds_no_class() -> None:
    truths = ["yes", "yes", "no", "no"]
    answers = ["yes", None, "no", "no"]

    found = values(label_measures(("yes", "no"), truths, answers))

    # yes: 1 hit of 1 answered and 2 true, F1 = 2/3; no: 2 of 2 and 2, F1 = 1.
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert (found["precision_yes"], found["recall_yes"]) == (1.0, 0.5)
    assert (found["precision_no"], found["recall_no"]) == (1.0, 1.0)
    assert (found["accuracy"], found["unparsable_ratio"]) == (0.75, 0.25)


def test_making_a_wrong_answer_unparsable_never_lowers_any_precision() -> None:
    truths, answers = drawn(7)
    fewer = [a if a == t else None for t, a in zip(truths, answers, strict=True)]

    before, after = (
        values(per_label(LABELS, truths, answers)),
        values(per_label(LABELS, truths, fewer)),
    )

    assert accuracy(truths, fewer).value == accuracy(truths, answers).value
    assert all(after[f"recall_{label}"] == before[f"recall_{label}"] for label in LABELS)
    assert all(after[f"precision_{label}"] == 1 for label in LABELS)


def test_a_declared_label_that_occurs_nowhere_has_f1_0() -> None:
    assert macro_f1(LABELS, ["yes", "no"], ["yes", "no"]).value == pytest.approx(2 / 3)


@pytest.mark.parametrize("size", [10, 276])
def test_a_constant_answer_scores_what_follows_from_the_counts(size: int) -> None:
    truths = ["yes"] * size + ["no"] * 169 + ["maybe"] * 55
    found = values(label_measures(LABELS, truths, ["yes"] * len(truths)))

    share = size / len(truths)
    assert found["accuracy"] == pytest.approx(share)
    # Precision is the share, recall 1.
    assert found["macro_f1"] == pytest.approx(2 * share / (1 + share) / 3)


def test_the_main_figure_comes_first_and_only_shares_are_proportions() -> None:
    truths, answers = drawn(0)
    default = label_measures(LABELS, truths, answers)
    by_f1 = label_measures(LABELS, truths, answers, main="macro_f1")

    assert [measure.name for measure in default][:2] == ["accuracy", "macro_f1"]
    assert [measure.name for measure in by_f1][:2] == ["macro_f1", "accuracy"]
    assert {m.name for m in default if m.is_proportion} == {"accuracy", "unparsable_ratio"}
    assert [m.name for m in default if not m.higher_is_better] == ["unparsable_ratio"]
    assert unparsable_ratio([None, "no"]).value == 0.5


def test_macro_f1_can_be_bootstrapped() -> None:
    truths, answers = drawn(3, 200)
    measure = macro_f1(LABELS, truths, answers)

    interval = bootstrap_interval(measure.columns, measure.statistic, Bootstrap(200))

    assert interval.low < interval.value < interval.high
    assert interval.value == pytest.approx(measure.value)


@pytest.mark.parametrize(("truth", "answer"), [("perhaps", "yes"), ("yes", "perhaps")])
def test_a_label_that_is_not_declared_is_refused(truth: str, answer: str) -> None:
    with pytest.raises(ValueError, match="perhaps"):
        macro_f1(LABELS, [truth], [answer])
