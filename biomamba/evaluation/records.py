"""Result records: one figure with n, interval, method and provenance per line of JSON."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from biomamba.config.annotations import build_record
from biomamba.metrics.measure import Bootstrap, Interval
from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import RESULT, TASK_RESULT, Shape, json_lines

_SHOWN = 10
_BOUNDS = ("low", "high")


@dataclass(frozen=True, kw_only=True)
class ResultRecord:
    """A metric of one model on one split of one source.

    low and high bound the interval of `level` over num_documents documents; they are nan where
    there is none, and null in the file. method says how the interval was made, or why there is
    none; records of earlier versions do not tell. provenance holds the checkpoint and data
    fingerprints, config hash, commit and hardware. A figure of some positions of the documents only
    names the first one and the one after the last; else both are None.
    """

    model: str
    source: str
    split: str
    metric: str
    unit: str
    value: float
    low: float
    high: float
    level: float
    num_documents: int
    num_tokens: int
    num_bytes: int
    provenance: Mapping[str, Any]
    first_position: int | None = None
    end_position: int | None = None
    method: str = ""

    @property
    def interval(self) -> Interval:
        """The value with its bounds."""
        return Interval(self.value, self.low, self.high)


@dataclass(frozen=True)
class RecordContext:
    """What all records of one model on one source share."""

    model: str
    source: str
    split: str
    bootstrap: Bootstrap
    provenance: Mapping[str, Any]

    def record(
        self,
        metric: str,
        unit: str,
        interval: Interval,
        method: str,
        *,
        num_documents: int,
        num_tokens: int,
        num_bytes: int,
    ) -> ResultRecord:
        """Return the record of a figure.

        Raises:
            DataError: The figure is not finite.
        """
        if not math.isfinite(interval.value):
            raise DataError(
                f"{metric} of {self.model} on {self.source} is not finite: the model has diverged, "
                "or its weights are damaged"
            )
        return ResultRecord(
            model=self.model,
            source=self.source,
            split=self.split,
            metric=metric,
            unit=unit,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            level=self.bootstrap.level,
            num_documents=num_documents,
            num_tokens=num_tokens,
            num_bytes=num_bytes,
            provenance=self.provenance,
            method=method,
        )


def format_records(records: Iterable[ResultRecord]) -> str:
    """Return the records as JSON lines; a number that is not finite is null there."""
    return "".join(record_line(asdict(record)) for record in records)


def record_line(values: Mapping[str, Any]) -> str:
    """Return the fields of a record as a line of JSON; a number that is not finite is null there.

    Raises:
        ValueError: A number within an object is not finite.
    """
    plain = {name: plain_value(value) for name, value in values.items()}
    return json.dumps(plain, sort_keys=True, allow_nan=False) + "\n"


def plain_value(value: Any) -> Any:
    """Return a value of a record with None for each number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [plain_value(each) for each in value] if isinstance(value, list | tuple) else value


def read_records(path: Path) -> list[ResultRecord]:
    """Read JSON lines written by format_records.

    Raises:
        DataError: for a missing file, a line that is not JSON, or one with other fields.
    """
    records = []
    for number, values in enumerate(read_objects(path, ResultRecord, RESULT), start=1):
        values |= {name: math.nan for name in _BOUNDS if values[name] is None}
        records.append(build_record(ResultRecord, values, f"{path}, line {number}"))
    return records


def read_objects(path: Path, record: type[Any], shape: Shape) -> Iterator[dict[str, Any]]:
    """Iterate over JSON lines that each hold the fields of a record class.

    Fields that have a default may be missing: records of earlier versions stay readable.

    Raises:
        DataError: for a missing file, a line that is not JSON, or one with other fields.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such results file; biomamba.evaluate writes it")
    allowed = {field.name for field in fields(record)}
    needed = {
        field.name
        for field in fields(record)
        if field.default is MISSING and field.default_factory is MISSING
    }
    for number, values in enumerate(json_lines(path, shape), start=1):
        if not needed <= set(values) <= allowed:
            odd = sorted(needed - set(values) | set(values) - allowed)[:_SHOWN]
            raise DataError(f"{path}, line {number}: fields missing or not known: {odd}")
        yield values


# -------------------------------------------------------------------------------------------------
# One figure of one model on one task with everything needed to trust it, kept as JSON lines.
# -------------------------------------------------------------------------------------------------

_ALWAYS_NUMBERS = ("value", "low", "high")
CHANGE = "_change"  # ends the name of a metric that compares a model with another one


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """A metric of one model on one split of one task.

    Attributes:
        metric: Name of the measure; with `_change` after it the difference to the model `against`.
        low, high: Bounds of the interval of `level`, made by `method`; nan where there is none.
        n: Items.
        n_groups: Groups of items that are not independent, as the notes of one patient.
        model: Label of the model, or `majority` or `random`, which have no checkpoint.
        answer: How answers came about: `likelihood`, `generation`, and the rule that decided, with
            the values that were fitted on the validation split.
        minimum_detectable_difference: Of a proportion with so many items; None for other metrics.
        against, p_value, mcnemar: Of a change only: the other model, the p value of the paired
            bootstrap, and for a proportion the exact test on the items that only one has right.
        provenance: Command line, config hash, commit, versions, hardware, fingerprints of files.
        rejects: Rows of the split that are no items, by reason.
        filtered: Whether the items were kept out of the training data of the model: `filtered`,
            `not filtered` or `unknown`; None for what is no model.
        filter_reasons: What of the training data was not filtered, or is not known.
    """

    task: str
    protocol: str
    split: str
    metric: str
    value: float
    low: float
    high: float
    level: float
    method: str
    n: int
    n_groups: int
    seed: int
    model: str
    prompt: str
    prompt_fingerprint: str
    checkpoint_sha256: str | None
    data_fingerprint: str
    provenance: Mapping[str, Any]
    higher_is_better: bool | None = True
    answer: Mapping[str, Any] = field(default_factory=dict)
    minimum_detectable_difference: float | None = None
    against: str | None = None
    p_value: float | None = None
    mcnemar: Mapping[str, float] | None = None
    rejects: Mapping[str, int] = field(default_factory=dict)
    filtered: str | None = None
    filter_reasons: Sequence[str] = field(default_factory=list)

    @property
    def interval(self) -> Interval:
        """The value with its bounds."""
        return Interval(self.value, self.low, self.high)


def format_task_records(records: Iterable[TaskRecord]) -> str:
    """Return the records as JSON lines; a number that is not defined is null there."""
    return "".join(record_line(asdict(record)) for record in records)


def read_task_records(path: Path) -> list[TaskRecord]:
    """Read JSON lines written by format_task_records.

    Raises:
        DataError: For a missing file, a line that is not JSON, or one with other fields.
    """
    records = []
    for number, values in enumerate(read_objects(path, TaskRecord, TASK_RESULT), start=1):
        undefined = {name: math.nan for name in _ALWAYS_NUMBERS if values[name] is None}
        records.append(build_record(TaskRecord, {**values, **undefined}, f"{path}, line {number}"))
    return records
