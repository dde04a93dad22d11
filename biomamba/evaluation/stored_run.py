"""Read an evaluation back from its folder: every model with its scores per item."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from biomamba.evaluation.document_scores import DOCUMENT_SCORES, StoredScores, read_document_scores
from biomamba.evaluation.perplexity import document_measures
from biomamba.evaluation.records import (
    CHANGE,
    ResultRecord,
    TaskRecord,
    read_records,
    read_task_records,
)
from biomamba.metrics.measure import Measure, ratio_of_sums
from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import MAX_TABLE_BYTES, loads, read_text
from biomamba.tasks.task import Task
from biomamba.training.lineage import UNKNOWN

# -------------------------------------------------------------------------------------------------
# What a model scored on the items of one source or task, ready to be compared.
# -------------------------------------------------------------------------------------------------

# What depends on the tokenizer: tokens are other pieces of the text for another one.
PER_TOKEN = frozenset({"perplexity"})


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The figures of one model on one source or task.

    Attributes:
        subject: Name of the source or task.
        protocol: How it was scored: what must be equal for figures to be compared.
        tokenizer: Fingerprint of the tokenizer that the figures depend on; None where they do not.
        items: What was scored, one name each, all different.
        units: What a bootstrap draws, for each item.
        measures: Figures of these items in this order.
        filtered: Whether the items of a task were kept out of the training data of the model (see
            TaskRecord); None for documents of a source.
    """

    subject: str
    protocol: Mapping[str, Any]
    tokenizer: str | None
    items: Sequence[str]
    units: Sequence[str]
    measures: Sequence[Measure]
    filtered: str | None = None

    def measure(self, metric: str) -> Measure:
        """Return the figure of a name."""
        return next(found for found in self.measures if found.name == metric)

    def in_order_of(self, other: "Scored") -> "Scored":
        """Return the same with the items in the order of those of another one.

        Raises:
            DataError: The items are others.
        """
        if list(self.items) == list(other.items):
            return self
        place = {item: index for index, item in enumerate(self.items)}
        shared = sum(item in place for item in other.items)
        if not shared == len(self.items) == len(other.items):
            raise DataError(
                f"{self.subject}: not the same items: {len(other.items):,} and "
                f"{len(self.items):,}, {shared:,} of them in both; evaluate both on the same data "
                f"with the same limits"
            )
        order = [place[item] for item in other.items]
        return replace(
            self,
            items=list(other.items),
            units=[self.units[index] for index in order],
            measures=[replace(found, columns=found.columns[order]) for found in self.measures],
        )


def scored_documents(stored: StoredScores) -> Scored:
    """Return perplexity and bits per byte of stored documents; a document is key and bytes."""
    keys = [f"{key:016x}" for key in stored.keys.tolist()]
    sizes = stored.scores.num_bytes.tolist()
    # Documents of two stores may share key and size, and are then distinguished by their place.
    copies = _copies(list(zip(keys, sizes, strict=True)))
    return Scored(
        subject=stored.origin.source,
        protocol={"split": stored.origin.split, **stored.origin.protocol},
        tokenizer=stored.origin.tokenizer,
        items=[f"{k}:{s}:{c}" for k, s, c in zip(keys, sizes, copies, strict=True)],
        units=keys,
        measures=document_measures(stored.scores),
    )


def bits_per_byte(scored: Scored) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return bits per byte of the single documents (documents,); nan for one without text."""
    measure = scored.measure("bits_per_byte")
    with np.errstate(divide="ignore", invalid="ignore"):
        values = measure.statistic(measure.columns)
    return np.where(measure.columns[:, 2] > 0, values, np.nan)


def _copies(names: Sequence[Any]) -> list[int]:
    """Return how often each name came before."""
    seen: dict[Any, int] = {}
    found = []
    for name in names:
        found.append(seen.get(name, 0))
        seen[name] = found[-1] + 1
    return found


# -------------------------------------------------------------------------------------------------
# Read an evaluation back from its folder: every model with the scores of its single items.
#
# What was kept of items is checked against the records beside it, so that files of another start of
# the evaluation in the same folder are found.
# -------------------------------------------------------------------------------------------------

PREDICTIONS = "predictions"
_AGAIN = "evaluate again into another folder"
# How answers came about, as far as a user chose it; fitted values and counts differ by nature.
_CHOSEN = ("by", "decision", "prior_correction", "fitted_on")


@dataclass
class StoredModel:
    """One model of an evaluation: sha256 of its weights, where they were, and its scores."""

    label: str
    checkpoint: str
    path: str | None
    scored: dict[str, Scored] = field(default_factory=dict)


def read_evaluation(folder: Path, tasks: Mapping[str, Task]) -> list[StoredModel]:
    """Return the models of an evaluation in their order; `tasks` are those that it was made with.

    Raises:
        DataError: Files are missing, damaged, or of different starts of the evaluation.
    """
    check_evaluation(folder)
    models: dict[str, StoredModel] = {}
    results, task_results = folder / "results.jsonl", folder / "task_results.jsonl"
    if results.is_file():
        models = {model.label: model for model in read_sources(folder)}
    if task_results.is_file():
        for records in _by_task_and_model(read_task_records(task_results)):
            first = records[0]
            model = _model(models, first.model, first.provenance, first.checkpoint_sha256)
            # A source of the same name came first.
            name = f"{first.task} (task)" if first.task in model.scored else first.task
            scored = _answers(folder, records, tasks)
            model.scored[name] = replace(scored, subject=name)
    return list(models.values())


def check_evaluation(folder: Path) -> None:
    """Raise DataError unless a folder holds the records of an evaluation."""
    names = ("results.jsonl", "task_results.jsonl")
    if not any((folder / name).is_file() for name in names):
        raise DataError(
            f"{folder}: neither {' nor '.join(names)} is there; name folders that "
            f"biomamba.evaluate wrote"
        )


def read_sources(folder: Path) -> list[StoredModel]:
    """Return the models of an evaluation with their scores on sources, without those on tasks.

    Raises:
        DataError: As read_evaluation.
    """
    models: dict[str, StoredModel] = {}
    for record in _whole(read_records(folder / "results.jsonl")):
        model = _model(models, record.model, record.provenance)
        model.scored[record.source] = _documents(folder, record)
    return list(models.values())


def _whole(records: Sequence[ResultRecord]) -> list[ResultRecord]:
    """Return one record per source and model: every model has bits per byte."""
    return [r for r in records if r.metric == "bits_per_byte" and r.first_position is None]


def _model(
    models: dict[str, StoredModel],
    label: str,
    provenance: Mapping[str, Any],
    sha256: str | None = None,
) -> StoredModel:
    known = provenance.get("checkpoints", {}).get(label, {})
    checkpoint = sha256 or known.get("sha256")
    if checkpoint is None:
        raise DataError(f"the records of model {label} do not name its checkpoint; {_AGAIN}")
    return models.setdefault(label, StoredModel(label, checkpoint, known.get("path")))


def _documents(folder: Path, record: ResultRecord) -> Scored:
    path = folder / DOCUMENT_SCORES / f"{record.source}.{record.model}.npz"
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; the evaluation is older than this file is kept: {_AGAIN}"
        )
    stored = read_document_scores(path)
    scored = scored_documents(stored)
    _check_value(path, scored.measure("bits_per_byte"), record.value)
    fingerprint = record.provenance.get("data_fingerprint")
    if stored.origin.provenance.get("data_fingerprint") != fingerprint:
        raise DataError(f"{path}: of other documents than {folder / 'results.jsonl'}; {_AGAIN}")
    return scored


def _by_task_and_model(records: Sequence[TaskRecord]) -> Iterator[list[TaskRecord]]:
    """Yield the figures of each task and model; what has no checkpoint is no model."""
    found: dict[tuple[str, str], list[TaskRecord]] = {}
    for record in records:
        if record.checkpoint_sha256 is not None and not record.metric.endswith(CHANGE):
            found.setdefault((record.task, record.model), []).append(record)
    yield from found.values()


def _answers(folder: Path, records: Sequence[TaskRecord], tasks: Mapping[str, Task]) -> Scored:
    first = records[0]
    suffix = "" if first.split == "test" else f".{first.split}"
    path = folder / PREDICTIONS / f"{first.task}.{first.model}{suffix}.jsonl"
    header, lines = _read_lines(path)
    if header.get("checkpoint_sha256") != first.checkpoint_sha256:
        raise DataError(f"{path}: answers of another checkpoint than the results; {_AGAIN}")
    if first.task not in tasks:
        raise DataError(f"{folder}: its settings do not hold task {first.task}; {_AGAIN}")
    # What a figure makes of the sums of its columns depends on no item.
    known = {measure.name: measure for measure in tasks[first.task].measures([], [])}
    measures = [_measure(path, known.get(record.metric), record, lines) for record in records]
    return Scored(
        subject=first.task,
        protocol={
            "protocol": first.protocol,
            "split": first.split,
            "data": first.data_fingerprint,
            "prompt": first.prompt,
            "prompt fingerprint": first.prompt_fingerprint,
            "options": header.get("options"),
            "answer": {key: first.answer.get(key) for key in _CHOSEN},
        },
        tokenizer=None,
        items=[str(line["key"]) for line in lines],
        units=[str(line["unit"]) for line in lines],
        measures=measures,
        filtered=first.filtered or UNKNOWN,  # records of earlier versions do not tell
    )


def _measure(
    path: Path, known: Measure | None, record: TaskRecord, lines: Sequence[Mapping[str, Any]]
) -> Measure:
    """Return a figure with the columns that were kept of each item."""
    try:
        columns = np.array([line["columns"][record.metric] for line in lines], dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DataError(f"{path}: its lines lack numbers of {record.metric}; {_AGAIN}") from None
    # A figure of some items only, which an empty task does not know: a ratio, or the value differs.
    better = record.higher_is_better
    measure = known or Measure(record.metric, columns, ratio_of_sums, higher_is_better=better)
    measure = replace(measure, columns=columns)
    _check_value(path, measure, record.value)
    return measure


def _read_lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return header and lines of a file of predictions; messages do not quote it."""
    try:
        first, *rest = read_text(path, MAX_TABLE_BYTES).splitlines()
        header = loads(first)["header"]
        lines = [loads(line) for line in rest]
        if not all({"key", "unit", "columns"} <= line.keys() for line in lines):
            raise KeyError
        if not isinstance(header, dict):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path}: missing, damaged or not finished; start the evaluation again to finish it"
        ) from None
    return header, lines


def _check_value(path: Path, measure: Measure, recorded: float) -> None:
    same = math.isclose(measure.value, recorded, rel_tol=1e-9, abs_tol=1e-12)
    if not same and not (math.isnan(measure.value) and math.isnan(recorded)):
        raise DataError(
            f"{path}: {measure.name} of its items is {measure.value:.6g}, the results say "
            f"{recorded:.6g}: they are of different evaluations; {_AGAIN}"
        )
