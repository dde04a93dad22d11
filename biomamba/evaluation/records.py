"""One measured figure with everything needed to trust it, kept as JSON lines."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from biomamba.config.annotations import build_record
from biomamba.metrics.interval import Bootstrap, Interval
from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import Shape, json_lines
from biomamba.runtime.record_shapes import RESULT

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class ResultRecord:
    """A metric of one model on one split of one source.

    low and high bound the interval of `level` over num_documents documents. provenance holds the
    checkpoint and data fingerprints, config hash, commit and hardware. A figure of some positions
    of the documents only names the first one and the one behind the last; else both are None.
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
        *,
        num_documents: int,
        num_tokens: int,
        num_bytes: int,
    ) -> ResultRecord:
        """Return the record of a figure."""
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
        )


def format_records(records: Iterable[ResultRecord]) -> str:
    """Return the records as JSON lines."""
    return "".join(json.dumps(asdict(record), sort_keys=True) + "\n" for record in records)


def read_records(path: Path) -> list[ResultRecord]:
    """Read JSON lines written by format_records.

    Raises:
        DataError: for a missing file, a line that is not JSON, or one with other fields.
    """
    records = []
    for number, values in enumerate(read_objects(path, ResultRecord, RESULT), start=1):
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
