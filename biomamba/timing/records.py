"""Measured points, kept as JSON lines so that no point is measured twice."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from biomamba.runtime.atomic import write_text
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.input_files import loads, read_text
from biomamba.timing.settings import DECODE, PHASES, Point

EFFICIENCY_FILE = "efficiency.jsonl"
# What must be the same for points to stand beside each other, inside of provenance.
_PROVENANCE = ("machine", "versions")


@dataclass(frozen=True, kw_only=True)
class EfficiencyRecord:
    """One point of one model.

    Attributes:
        length: Tokens of a row; of the context in `decode`.
        new_tokens: Per row and measurement, in `decode` only.
        seconds: Of every repeat; none if memory ran out.
        failure: Why there are no seconds: memory ran out.
        tokens_per_second: Of the median repeat: read, or written in `decode`.
        operations: Useful operations of one repeat.
        peak_operations_per_second: Of a product of square matrices in the same turns.
        utilisation: Operations per second of the median repeat over that peak.
        held_bytes: Weights, states and caches between two repeats.
        growth_bytes: What came on top at the most; None: the system does not tell.
        conditions: Settings that every point of a file shares.
        provenance: Commit, versions, machine, command and config hash.
    """

    phase: str
    model: str
    num_parameters: int
    shape: Mapping[str, Any]
    batch: int
    length: int
    precision: str
    device: str
    new_tokens: int | None
    seconds: Sequence[float]
    failure: str | None
    tokens_per_second: float | None
    operations: float
    peak_operations_per_second: float | None
    utilisation: float | None
    held_bytes: int | None
    growth_bytes: int | None
    conditions: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def point(self) -> Point:
        """What was measured."""
        return Point(self.phase, self.batch, self.length)

    @property
    def memory_bytes(self) -> int | None:
        """The memory that the model needed at the most."""
        if self.held_bytes is None or self.growth_bytes is None:
            return None
        return self.held_bytes + self.growth_bytes

    @property
    def median_seconds(self) -> float | None:
        """Seconds of the median repeat; per new token and row in `decode`."""
        if not self.seconds:
            return None
        return statistics.median(self.seconds) / (self.new_tokens or 1)


@dataclass(frozen=True)
class Rates:
    """The figures of a record that follow from its times."""

    tokens_per_second: float | None
    peak_operations_per_second: float | None
    utilisation: float | None


def rates(
    point: Point,
    new_tokens: int,
    seconds: Sequence[float],
    operations: float,
    peak_seconds: Sequence[float],
    peak_operations: float,
) -> Rates:
    """Return the figures of the median repeat, and of the median product beside it."""
    peak = peak_operations / statistics.median(peak_seconds) if peak_seconds else None
    if not seconds:
        return Rates(None, peak, None)
    median = statistics.median(seconds)
    tokens = point.batch * new_tokens if point.phase == DECODE else point.tokens
    return Rates(tokens / median, peak, operations / median / peak if peak else None)


@dataclass(frozen=True)
class Curve:
    """The median times of one model over lengths, in one phase with so many rows."""

    phase: str
    batch: int
    model: str
    lengths: Sequence[int]
    seconds: Sequence[float]


def curves(records: Sequence[EfficiencyRecord]) -> list[Curve]:
    """Return the curves of comparable records, from the shortest length to the longest."""
    points: dict[tuple[str, int, str], dict[int, float]] = {}
    for record in records:
        line = points.setdefault((record.phase, record.batch, record.model), {})
        if record.median_seconds is not None:
            line[record.length] = record.median_seconds
    return [
        Curve(*key, sorted(line), [line[length] for length in sorted(line)])
        for key, line in points.items()
    ]


class RecordFile:
    """The points of a run folder, each written as soon as it is measured.

    Raises:
        DataError: The file is damaged.
        ConfigError: Its points were measured under other conditions.
    """

    def __init__(
        self,
        path: Path,
        conditions: Mapping[str, Any],
        provenance: Mapping[str, Any],
        *,
        overwrite: bool,
    ) -> None:
        self.path = path
        is_read = path.is_file() and not overwrite
        self.records = read_efficiency(path) if is_read else []
        now = {**conditions, **{key: provenance.get(key) for key in _PROVENANCE}}
        for record in self.records:
            origin = {key: record.provenance.get(key) for key in _PROVENANCE}
            found = difference({**record.conditions, **origin}, now)
            if found is not None:
                raise ConfigError(
                    f"{path}: its points were measured with {found}. Points of one file must be "
                    "comparable: go back to that, name another paths.run_dir, or measure all of "
                    "them again with overwrite=true"
                )

    def has(self, model: str, point: Point) -> bool:
        """Say whether a point was measured, or found not to fit into memory."""
        return any(record.model == model and record.point == point for record in self.records)

    def shortest_failure(self, model: str, point: Point) -> int | None:
        """Return the shortest length that did not fit, with as many rows in the same phase."""
        lengths = [
            record.length
            for record in self.records
            if record.failure is not None
            and (record.model, record.phase, record.batch) == (model, point.phase, point.batch)
        ]
        return min(lengths, default=None)

    def add(self, records: Sequence[EfficiencyRecord]) -> None:
        """Write the file with further points, whole or not at all."""
        self.records = [*self.records, *records]
        plain = [asdict(record) for record in self.records]
        lines = [json.dumps(each, sort_keys=True, allow_nan=False) for each in plain]
        write_text(self.path, "".join(f"{line}\n" for line in lines))


def read_efficiency(path: Path) -> list[EfficiencyRecord]:
    """Read the points of a file.

    Raises:
        DataError: A line is not one of them.
    """
    return list(_read(path))


def _read(path: Path) -> Iterator[EfficiencyRecord]:
    names = {field.name for field in fields(EfficiencyRecord)}
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            values = loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error}); restore it or measure again") from error
        if not isinstance(values, dict) or set(values) != names:
            odd = sorted(set(values) ^ names) if isinstance(values, dict) else "not an object"
            raise DataError(f"{where}: fields missing or not known: {odd}")
        wrong = _wrong_fields(values)
        if wrong:
            raise DataError(f"{where}: damaged: {', '.join(wrong)}; restore it or measure again")
        yield EfficiencyRecord(**values)


def _wrong_fields(values: Mapping[str, Any]) -> list[str]:
    """Name the fields whose values are of another kind than those that are written."""
    number, count = (int, float), (int,)
    kinds: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("phase", "model", "precision", "device"), (str,)),
        **dict.fromkeys(("num_parameters", "batch", "length"), count),
        **dict.fromkeys(("shape", "conditions", "provenance"), (dict,)),
        **dict.fromkeys(("new_tokens", "held_bytes", "growth_bytes"), (int, type(None))),
        **dict.fromkeys(("tokens_per_second", "utilisation"), (*number, type(None))),
        "peak_operations_per_second": (*number, type(None)),
        "operations": number,
        "failure": (str, type(None)),
        "seconds": (list,),
    }
    wrong = [name for name, kind in kinds.items() if not isinstance(values[name], kind)]
    if not wrong and values["phase"] not in PHASES:
        wrong.append("phase")
    if not wrong and not isinstance(values["provenance"].get("machine"), dict):
        wrong.append("provenance")
    if not wrong and not all(isinstance(s, number) and s > 0 for s in values["seconds"]):
        wrong.append("seconds")
    return wrong


def difference(old: Any, new: Any, key: str = "") -> str | None:
    """Return the first difference of two trees in words; None if they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            inside = difference(old.get(name), new.get(name), f"{key}.{name}" if key else name)
            if inside is not None:
                return inside
        return None
    return None if _plain(old) == _plain(new) else f"{key}={old!r}, now it is {new!r}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
