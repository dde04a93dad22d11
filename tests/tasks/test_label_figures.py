"""Figures of predictions of labels."""

import logging
import random

import pytest

from biomamba.runtime.errors import DataError
from biomamba.tasks.labels import in_order, label_figures
from biomamba.tasks.prompt import Item
from biomamba.tasks.task import EMPTY, UNPARSABLE, Prediction

LABELS = ("yes", "no")
ITEMS = [Item(id=str(n), parts={}, target=label, label=label) for n, label in enumerate(LABELS * 3)]


def right(item: Item) -> Prediction:
    score = {label: float(label == item.label) for label in LABELS}
    return Prediction(id=item.id, text=str(item.label), label=item.label, scores=score)


def figures(predictions: list[Prediction]) -> dict[str, float]:
    return {m.name: m.value for m in label_figures(LABELS, ITEMS, predictions)}


def test_right_answers_score_the_maximum_in_any_order() -> None:
    predictions = [right(item) for item in ITEMS]
    random.Random(0).shuffle(predictions)

    found = figures(predictions)

    assert found["accuracy"] == found["macro_f1"] == 1
    assert found["unparsable_ratio"] == found["calibration_error"] == found["brier_score"] == 0


def test_a_missing_prediction_is_wrong_and_named(caplog: pytest.LogCaptureFixture) -> None:
    predictions = [right(item) for item in ITEMS[2:]]
    with caplog.at_level(logging.WARNING):
        ordered = in_order(ITEMS, predictions)

    assert [p.status for p in ordered[:2]] == [EMPTY, EMPTY]
    assert "2 items have no prediction and count as wrong: 0, 1" in caplog.text
    assert figures(predictions)["accuracy"] == pytest.approx(4 / 6)


def test_generated_answers_have_no_calibration() -> None:
    predictions = [right(item) for item in ITEMS[1:]]
    predictions.append(Prediction(id="0", text="perhaps", status=UNPARSABLE))

    found = figures(predictions)

    assert found["accuracy"] == pytest.approx(5 / 6)
    assert found["unparsable_ratio"] == pytest.approx(1 / 6)
    assert "brier_score" not in found


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (right(ITEMS[0]), "1 repeat an id"),
        (Prediction(id="x", text="yes", label="yes"), r"1 are of no item \(x\)"),
    ],
)
def test_predictions_of_other_items_are_refused(extra: Prediction, words: str) -> None:
    with pytest.raises(DataError, match=words):
        figures([*(right(item) for item in ITEMS), extra])


def test_a_label_of_another_task_is_refused() -> None:
    wrong = Prediction(id="0", text="maybe", label="maybe")

    with pytest.raises(DataError, match=r"labels \['maybe'\]"):
        figures([wrong, *(right(item) for item in ITEMS[1:])])
