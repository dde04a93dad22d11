"""One figure of one model on one task with everything needed to trust it, kept as JSON lines."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from biomamba.config.annotations import build_record
from biomamba.evaluation.records import read_objects, record_line
from biomamba.metrics.interval import Interval
from biomamba.runtime.record_shapes import TASK_RESULT

_ALWAYS_NUMBERS = ("value", "low", "high")
CHANGE = "_change"  # ends the name of a metric that compares a model with another one


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """A metric of one model on one split of one task.

    Attributes:
        metric: Name of the measure; with `_change` behind it the difference to the model `against`.
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
