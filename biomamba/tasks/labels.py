"""Labels: reading them from generated text, label metrics, comparison of short answers."""

import logging
import re
import unicodedata
from collections.abc import Sequence

from biomamba.metrics.classification import calibration_measures, label_measures
from biomamba.metrics.measure import Measure
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.prompt import Item
from biomamba.tasks.task import EMPTY, Prediction

# -------------------------------------------------------------------------------------------------
# The one reading of a generated answer to a question that wants a label.
#
# The rule is strict, because what it cannot read counts as wrong and is reported as unparsable,
# whereas a guess would be a figure about the guess:
#
# 1. A line is cut into clauses at punctuation and after "answer is"; `-` and an apostrophe inside
#    a word belong to it.
# 2. A label counts where it opens or closes a clause, as whole words in any case, after `and`, `or`
#    or `but` too: "No, it is not" and "The answer is yes since it helps", but not "normal", "there
#    is no evidence" or "not yes".
# 3. The first line in which a label counts decides: if all that count there are the same one, it is
#    the answer; "yes and no", "Yes, no" and "no / maybe" are none.
#
# "Yes, because no patient died" is "yes": its "no" neither opens nor closes a clause.
# -------------------------------------------------------------------------------------------------

_WORD_OR_MARK = re.compile(r"([^\W_]+(?:['\u2019-][^\W_]+)*)|[^\w\s]|_")
_CONJUNCTIONS = ("and", "or", "but")
_NEGATION = ("not",)
_ANNOUNCEMENT = ["answer", "is"]
Words = tuple[str, ...]


def parse_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that a generated answer stands for; None if it is not exactly one.

    Raises:
        ValueError: The labels are not distinct words.
    """
    names: dict[Words, str] = {}
    for label in labels:
        clauses = _clauses(label)
        if len(clauses) != 1 or clauses[0] in names:
            raise ValueError(f"labels must be distinct and of words alone, got {list(labels)}")
        names[clauses[0]] = label
    for line in text.splitlines():
        found = {name for clause in _clauses(line) for name in _standing(clause, list(names))}
        if found:
            return names[found.pop()] if len(found) == 1 else None
    return None


def _clauses(line: str) -> list[Words]:
    """Return the words of the clauses of a line, those without words left out."""
    clauses: list[list[str]] = [[]]
    for token in _WORD_OR_MARK.finditer(unicodedata.normalize("NFC", line).casefold()):
        if token[1]:
            clauses[-1].append(token[1])
        if not token[1] or clauses[-1][-2:] == _ANNOUNCEMENT:
            clauses.append([])
    return [tuple(clause) for clause in clauses if clause]


def _standing(clause: Words, names: Sequence[Words]) -> set[Words]:
    """Return the labels that open and close a clause."""
    while clause and clause[0] in _CONJUNCTIONS:
        clause = clause[1:]
    longest_first = sorted(names, key=len, reverse=True)
    opening = next((name for name in longest_first if clause[: len(name)] == name), None)
    closing = next((name for name in longest_first if clause[-len(name) :] == name), None)
    if closing is not None and clause[: -len(closing)][-1:] == _NEGATION:
        closing = None
    return {name for name in (opening, closing) if name is not None}


# -------------------------------------------------------------------------------------------------
# The figures of tasks whose answer is a label, and predictions in the order of their items.
# -------------------------------------------------------------------------------------------------

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


# -------------------------------------------------------------------------------------------------
# What a model wrote, as answers to be compared with references character by character.
# -------------------------------------------------------------------------------------------------

CLEANING = ("none", "full_stop")


def check_cleaning(cleaning: str, protocol: str, official: str) -> None:
    """Raise ConfigError unless a cleaning is known, and none in the official protocol."""
    if cleaning not in CLEANING:
        raise ConfigError(f"cleaning is {cleaning!r}; allowed: {', '.join(CLEANING)}")
    if (cleaning == "none") != (protocol == official):
        raise ConfigError(
            f"cleaning is {cleaning} and protocol {protocol!r}: protocol {official} goes with "
            "cleaning none, any other cleaning with a protocol of another name"
        )


def one_line(text: str) -> str:
    """Return a reference as a line to be written; other spaces stay, since they are compared."""
    return " ".join(text.strip().splitlines())


def cleaned(text: str, cleaning: str) -> str:
    """Return a text without space at its ends and, with `full_stop`, without a final full stop."""
    text = text.strip()
    return text.removesuffix(".").rstrip() if cleaning == "full_stop" else text


def candidates_of(prediction: Prediction, cleaning: str) -> Sequence[str]:
    """Return the candidates of a prediction, best first, without empty ones."""
    texts = prediction.candidates or [prediction.text]
    return [text for each in texts if (text := cleaned(each, cleaning))]
