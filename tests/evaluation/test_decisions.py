"""How labels and options follow from scores."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from biomamba.evaluation.answer_model import RawAnswer
from biomamba.evaluation.answers import (
    AnswerOptions,
    Decision,
    Questions,
    fit_decision,
    fit_offsets,
    predict,
)
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.prompt import Item
from biomamba.tasks.task import ChooseLabel, ChooseOption, WriteText

Build = Callable[..., Any]
ITEM = Item(id="1", parts={}, target="no", label="no", options=("ab", "c", "\u00e9\u00e9\u00e9"))
RAW = RawAnswer(key="1", log_probabilities=[-1.0, -2.0, -4.0], num_cut_tokens=7)


def test_the_most_likely_label_wins_and_probabilities_add_up(toy_task: Build) -> None:
    found = predict(toy_task(), ITEM, RAW, Decision())

    assert (found.id, found.label, found.text, found.num_cut_tokens) == ("1", "yes", "yes", 7)
    total = math.exp(-1) + math.exp(-2) + math.exp(-4)
    expected = {"yes": math.exp(-1), "no": math.exp(-2), "maybe": math.exp(-4)}
    assert found.scores == pytest.approx({name: p / total for name, p in expected.items()})


def test_the_prior_is_divided_out(toy_task: Build) -> None:
    raw = replace(RAW, prior_log_probabilities=[-1.0, -2.5, -4.0])
    found = predict(toy_task(), ITEM, raw, Decision())

    assert found.label == "no"
    assert found.scores["yes"] == found.scores["maybe"] == pytest.approx(1 / (2 + math.exp(0.5)))


def test_an_offset_moves_the_threshold(toy_task: Build) -> None:
    for offset, label in ((0.99, "yes"), (1.01, "no")):
        assert predict(toy_task(), ITEM, RAW, Decision({"no": offset})).label == label


@pytest.mark.parametrize(
    ("normalise", "chosen"), [("none", "ab"), ("tokens", "c"), ("bytes", "\u00e9\u00e9\u00e9")]
)
def test_options_are_measured_by_their_length(normalise: str, chosen: str, toy_task: Build) -> None:
    raw = RawAnswer(key="1", log_probabilities=[-2.0, -2.1, -5.0], num_tokens=[1, 5, 3])
    found = predict(toy_task(kind=ChooseOption(normalise)), ITEM, raw, Decision())

    assert (found.text, found.label) == (chosen, None)


def test_an_unknown_length_is_refused(toy_task: Build) -> None:
    with pytest.raises(ConfigError, match="normalise is 'words'; allowed: bytes, tokens, none"):
        predict(toy_task(kind=ChooseOption("words")), ITEM, RAW, Decision())


def test_written_answers_stay_as_they_are(toy_task: Build) -> None:
    raw = RawAnswer(key="1", candidates=[" a text", " b "], status="answered")
    found = predict(toy_task(kind=WriteText(5)), ITEM, raw, Decision())

    assert (found.text, list(found.candidates), found.scores) == ("a text", ["a text", "b"], {})


def test_offsets_are_the_best_of_all_for_two_labels() -> None:
    margins = [(-1.7, "no"), (-0.4, "no"), (0.6, "no"), (0.9, "yes"), (2.5, "yes")]

    def value(offsets: Mapping[str, float]) -> float:
        return sum((m > offsets["no"]) == (label == "yes") for m, label in margins)

    offsets = fit_offsets(["yes", "no"], value)
    assert offsets["yes"] == 0
    assert 0.6 <= offsets["no"] < 0.9
    assert offsets["no"] == pytest.approx(0.6)  # the smallest of the grid that does it


def test_nothing_is_fitted_where_nothing_is_gained() -> None:
    assert fit_offsets(["yes", "no", "maybe"], lambda _: 1.0) == {"yes": 0, "no": 0, "maybe": 0}


def test_of_equally_good_offsets_the_smallest_stays() -> None:
    assert fit_offsets(["yes", "no"], lambda found: found["no"] <= -0.3)["no"] == -0.3


def test_offsets_of_three_labels_are_a_best_point_of_the_grid(
    toy_task: Build, toy_model: Build
) -> None:
    task = toy_task()
    items = task.items("val").items
    raws = Questions(task, toy_model(), AnswerOptions()).ask(items)

    def accuracy(offsets: Mapping[str, float]) -> float:
        decision = Decision(offsets)
        predictions = [predict(task, i, raw, decision) for i, raw in zip(items, raws, strict=True)]
        return task.measures(items, predictions)[0].value  # type: ignore[no-any-return]

    decision = fit_decision(task, items, raws)
    best = accuracy(decision.offsets)
    assert decision.num_fitted == 20
    assert best > accuracy({})
    for label, step in itertools.product(("no", "maybe"), range(-60, 61)):
        assert accuracy({**decision.offsets, label: step / 10}) <= best
    described = decision.described()
    assert described["fitted_on"] == "val"
    assert described["offsets"] == decision.offsets


def test_an_error_is_made_small(toy_task: Build, toy_model: Build) -> None:
    task = toy_task()
    items = task.items("val").items
    raws = Questions(task, toy_model(), AnswerOptions()).ask(items)

    class Worse(type(task)):  # type: ignore[misc]
        def measures(self, *given: Any) -> Any:
            main, *rest = super().measures(*given)
            return [replace(main, higher_is_better=False), *rest]

    fitted = fit_decision(Worse(), items, raws)
    predictions = [predict(task, i, raw, fitted) for i, raw in zip(items, raws, strict=True)]
    plain = [predict(task, i, raw, Decision()) for i, raw in zip(items, raws, strict=True)]
    assert task.measures(items, predictions)[0].value < task.measures(items, plain)[0].value


def test_thresholds_need_labels_and_validation_items(toy_task: Build) -> None:
    with pytest.raises(ConfigError, match="task toy has no labels"):
        fit_decision(toy_task(kind=ChooseOption()), [ITEM], [RAW])
    with pytest.raises(ConfigError, match="task toy has no validation items"):
        fit_decision(toy_task(kind=ChooseLabel(("yes", "no"))), [], [])
