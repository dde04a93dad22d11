"""The figures of tasks whose answer is a label, and predictions in the order of their items."""

import logging
from collections.abc import Sequence

from biomamba.metrics.calibration import calibration_measures
from biomamba.metrics.classification import label_measures
from biomamba.metrics.measure import Measure
from biomamba.runtime.errors import DataError
from biomamba.tasks.item import Item
from biomamba.tasks.prediction import EMPTY, Prediction

_LOG = logging.getLogger(__name__)
_NUM_NAMED = 10


def in_order(items: Sequence[Item], predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return one prediction for each item; an item without one gets an empty answer, a wrong one.

    The first such items are named in the log.

    Raises:
        DataError: A prediction is of no item, or two are of the same.
    """
    found = {prediction.id: prediction for prediction in predictions}
    odd = sorted(found.keys() - {item.id for item in items})
    if odd or len(found) < len(predictions):
        raise DataError(
            f"{len(predictions)} predictions for {len(items)} items do not fit: "
            f"{len(predictions) - len(found)} repeat an id, {len(odd)} are of no item "
            f"({', '.join(odd[:_NUM_NAMED]) or 'none'}); predict each item once"
        )
    missing = [item.id for item in items if item.id not in found]
    if missing:
        named = ", ".join(missing[:_NUM_NAMED])
        _LOG.warning("%d items have no prediction and count as wrong: %s", len(missing), named)
    empty = {name: Prediction(id=name, text="", status=EMPTY) for name in missing}
    return [empty.get(item.id) or found[item.id] for item in items]


def label_figures(
    labels: Sequence[str],
    items: Sequence[Item],
    predictions: Sequence[Prediction],
    *,
    main: str = "accuracy",
) -> list[Measure]:
    """Return accuracy, macro-F1, the figures of each label and, of probabilities, calibration."""
    ordered = in_order(items, predictions)
    truths = [str(item.label) for item in items]
    answers = [prediction.label for prediction in ordered]
    odd = sorted({answer for answer in answers if answer is not None} - set(labels))
    if odd:
        raise DataError(f"predictions hold the labels {odd}; those of the task: {list(labels)}")
    return [
        *label_measures(labels, truths, answers, main=main),
        *calibration_measures(truths, [prediction.scores for prediction in ordered]),
    ]
