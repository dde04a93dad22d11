"""From the scores of labels and options to predictions.

Every rule is an argmax of one number per answer: its log-probability, divided by its length if the
task says so, minus that behind an empty prompt if asked (prior correction), plus an offset per
label if thresholds were fitted. For two labels an offset is a threshold on their log-odds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from biomamba.evaluation.asking import written_prediction
from biomamba.evaluation.raw_answer import RawAnswer
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.item import Item
from biomamba.tasks.prediction import Prediction
from biomamba.tasks.task import ChooseLabel, ChooseOption, Task

NORMALISATIONS = ("bytes", "tokens", "none")
# Offsets that are tried, in nats: a factor of 1/400 to 400 between two labels.
_GRID = [step / 10 for step in range(-60, 61)]
_MAX_ROUNDS = 10


@dataclass(frozen=True)
class Decision:
    """How answers follow from scores.

    Attributes:
        offsets: Added to the score of each label, in nats; empty: nothing is.
        num_fitted: Items of the validation split that the offsets were fitted on.
    """

    offsets: Mapping[str, float] = field(default_factory=dict)
    num_fitted: int = 0

    def described(self) -> dict[str, Any]:
        """Return what a record says of it."""
        if not self.offsets:
            return {"decision": "argmax"}
        return {
            "decision": "thresholds",
            "offsets": dict(self.offsets),
            "fitted_on": "val",
            "num_fitted": self.num_fitted,
        }


def predict(task: Task, item: Item, raw: RawAnswer, decision: Decision) -> Prediction:
    """Return the prediction that follows from an answer."""
    answer = task.answer
    if not raw.log_probabilities:
        return written_prediction(item, raw)
    texts = answer.labels if isinstance(answer, ChooseLabel) else item.options
    scores = _scores(task, texts, raw)
    scores = [s + decision.offsets.get(text, 0) for s, text in zip(scores, texts, strict=True)]
    best = max(range(len(scores)), key=scores.__getitem__)
    return Prediction(
        id=item.id,
        text=texts[best],
        label=texts[best] if isinstance(answer, ChooseLabel) else None,
        scores=dict(zip(texts, _softmax(scores), strict=True)),
        num_cut_tokens=raw.num_cut_tokens,
    )


def fit_offsets(
    labels: Sequence[str], value: Callable[[Mapping[str, float]], float]
) -> dict[str, float]:
    """Return the offsets with the largest value, that of the first label being 0.

    One label after the other takes the best offset of a grid, until none changes; of equally good
    ones the smallest stays, so that nothing is fitted where nothing is gained.
    """
    offsets = dict.fromkeys(labels, 0.0)
    best = value(offsets)
    for _ in range(_MAX_ROUNDS):
        before = dict(offsets)
        for label in labels[1:]:
            for offset in sorted(_GRID, key=abs):
                tried = value({**offsets, label: offset})
                if tried > best:
                    best, offsets = tried, {**offsets, label: offset}
        if offsets == before:
            break
    return offsets


def fit_decision(task: Task, items: Sequence[Item], raws: Sequence[RawAnswer]) -> Decision:
    """Return the thresholds with the best main measure on items of the validation split.

    Raises:
        ConfigError: The task has no labels or no such items.
    """
    answer = task.answer
    if not isinstance(answer, ChooseLabel):
        raise ConfigError(
            f"decision=thresholds: task {task.name} has no labels; use decision=argmax for it"
        )
    if not items:
        raise ConfigError(
            f"decision=thresholds: task {task.name} has no validation items; use decision=argmax"
        )

    def value(offsets: Mapping[str, float]) -> float:
        decision = Decision(offsets)
        predictions = [predict(task, i, raw, decision) for i, raw in zip(items, raws, strict=True)]
        main = task.measures(items, predictions)[0]
        return main.value if main.higher_is_better in (True, None) else -main.value

    return Decision(fit_offsets(answer.labels, value), len(items))


def _scores(task: Task, texts: Sequence[str], raw: RawAnswer) -> list[float]:
    """Return one number per answer, the larger the better."""
    scores = list(raw.log_probabilities)
    if raw.prior_log_probabilities:
        pairs = zip(scores, raw.prior_log_probabilities, strict=True)
        scores = [score - prior for score, prior in pairs]
    if isinstance(task.answer, ChooseOption):
        lengths = _lengths(task.answer.normalise, texts, raw)
        scores = [score / length for score, length in zip(scores, lengths, strict=True)]
    return scores


def _lengths(normalise: str, texts: Sequence[str], raw: RawAnswer) -> list[int]:
    match normalise:
        case "none":
            return [1] * len(texts)
        case "tokens":
            return list(raw.num_tokens)
        case "bytes":
            return [max(1, len(text.encode())) for text in texts]
    raise ConfigError(f"normalise is {normalise!r}; allowed: {', '.join(NORMALISATIONS)}")


def _softmax(scores: Sequence[float]) -> list[float]:
    largest = max(scores)
    weights = [math.exp(score - largest) for score in scores]
    return [weight / sum(weights) for weight in weights]
