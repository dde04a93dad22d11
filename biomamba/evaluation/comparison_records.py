"""One row of a comparison of models, kept as JSON lines and as a table of values."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from biomamba.evaluation.records import plain_value, record_line


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """A figure of one model (or of one recipe over its seeds) and how it differs from another.

    Attributes:
        subject: Source or task.
        n: Items.
        n_groups: Groups of items that are not independent, as the notes of one patient.
        seed_values: The figure of each seed; `value` is their mean, `deviation` their sample
            standard deviation, `seeds_low` and `seeds_high` the interval of the mean about other
            seeds on the same items (nan for one).
        low, high: Interval of `level`, made by `method`.
        against: The model that it is compared with; None for that model itself, as are all fields
            below.
        difference: `value` minus that of `against`.
        p_value: Of `test`, two-sided; `p_holm` is corrected for all tests of the comparison.
        model_only, against_only: Items that only the one is right on, where the test is McNemar's.
        minimum_detectable_difference: The smallest true difference that these items show with
            probability `power`.
        checkpoints: sha256 of the weights of each seed.
        filtered: Whether the items of a task were kept out of the training data (see TaskRecord);
            of several seeds the worst. None for documents of a source.
    """

    subject: str
    metric: str
    higher_is_better: bool | None
    protocol: Mapping[str, Any]
    n: int
    n_groups: int
    model: str
    seed_values: Sequence[float]
    value: float
    deviation: float
    seeds_low: float
    seeds_high: float
    low: float
    high: float
    level: float
    method: str
    checkpoints: Sequence[str]
    against: str | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    test: str | None = None
    model_only: int | None = None
    against_only: int | None = None
    minimum_detectable_difference: float | None = None
    power: float | None = None
    filtered: str | None = None


@dataclass(frozen=True)
class Comparison:
    """All rows, and what was left out and why."""

    records: Sequence[ComparisonRecord]
    notes: Sequence[str] = field(default_factory=list)


def format_comparison(records: Iterable[ComparisonRecord]) -> str:
    """Return the records as JSON lines; what is not a number becomes null."""
    return "".join(record_line(asdict(record)) for record in records)


def comparison_csv(records: Iterable[ComparisonRecord]) -> str:
    """Return the records as CSV; lists and mappings are JSON, what is missing is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([found.name for found in fields(ComparisonRecord)])
    for record in records:
        writer.writerow([_cell(plain_value(value)) for value in asdict(record).values()])
    return text.getvalue()


def _cell(value: Any) -> Any:
    is_plain = not isinstance(value, list | dict)
    return value if is_plain else json.dumps(value, sort_keys=True, allow_nan=False)
