"""Settings and results of speed measurements as JSON lines, and growth exponents."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats

from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import write_text
from biomamba.runtime.input_files import loads, read_text
from biomamba.runtime.numbers import check_number, check_whole

# -------------------------------------------------------------------------------------------------
# What is measured, and how.
# -------------------------------------------------------------------------------------------------

TRAIN, PREFILL, DECODE = "train", "prefill", "decode"
PHASES = (TRAIN, PREFILL, DECODE)
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
DEVICES = ("auto", "cpu", "cuda")
_WHAT = ("phases", "lengths", "batches")  # of the points; the rest says how each is measured


@dataclass(frozen=True)
class Point:
    """One phase at one size: rows of so many tokens at once."""

    phase: str
    batch: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return self.batch * self.length


@dataclass(frozen=True, kw_only=True)
class EfficiencySettings:
    """What is measured, and how.

    Attributes:
        phases: Some of `train` (a whole step), `prefill` (time to the first token) and `decode`
            (tokens after a context).
        lengths: Tokens of a row; of the context in `decode`.
        batches: Rows at once; each with every length.
        repeats: Measurements of each point; the models take turns.
        warmup: Runs before them that do not count; the last one tells the memory.
        decode_tokens: New tokens per row of a measurement in `decode`.
        prefill_tokens: Positions that our model reads at once, as in biomamba.generate.
        precision: As trainer.precision.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
        threads: Of a CPU; null: as many as torch takes.
        memory_gib: Where memory ends; null: at that of the device.
        product_size: Side of the square matrices whose product is the peak.
    """

    phases: Sequence[str]
    lengths: Sequence[int]
    batches: Sequence[int]
    repeats: int = 5
    warmup: int = 1
    decode_tokens: int = 32
    prefill_tokens: int = 2_048
    precision: str = "32-true"
    device: str = "auto"
    threads: int | None = None
    memory_gib: float | None = None
    product_size: int = 2_048

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be {' or '.join(known)}")
        for name in _WHAT:
            object.__setattr__(self, name, self._listed(name))
        if odd := [phase for phase in self.phases if phase not in PHASES]:
            raise ValueError(f"phases has {odd}: allowed are {', '.join(PHASES)}")
        sizes = ("repeats", "warmup", "decode_tokens", "prefill_tokens", "product_size", "threads")
        for name in sizes:
            check_whole(name, getattr(self, name), optional=name == "threads")
        check_number("memory_gib", self.memory_gib, above=0, optional=True)

    def _listed(self, name: str) -> tuple[Any, ...]:
        values = tuple(getattr(self, name))
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}={list(values)}: must name at least one, and each once")
        if name == "phases":
            return tuple(phase for phase in PHASES if phase in values) + tuple(
                phase for phase in values if phase not in PHASES
            )
        for index, value in enumerate(values):
            check_whole(f"{name}[{index}]", value)
        return tuple(sorted(values))

    def points(self) -> list[Point]:
        """Return all points: phase by phase, from the shortest length to the longest."""
        return [
            Point(phase, batch, length)
            for phase in self.phases
            for batch in self.batches
            for length in self.lengths
        ]

    def conditions(self) -> dict[str, Any]:
        """Return what every point is measured under, as plain values."""
        return {key: value for key, value in asdict(self).items() if key not in _WHAT}

    def torch_device(self) -> torch.device:
        """Return the device.

        Raises:
            ConfigError: There is no GPU, or the precision needs one.
        """
        has_gpu = torch.cuda.is_available()
        if self.device == "cuda" and not has_gpu:
            raise ConfigError(
                "efficiency.device=cuda, but torch finds no GPU here; take cpu or auto"
            )
        found = torch.device("cuda" if has_gpu and self.device != "cpu" else "cpu")
        if self.precision == "16-mixed" and found.type == "cpu":
            raise ConfigError(
                "efficiency.precision=16-mixed needs a GPU; take 32-true or bf16-mixed on a CPU"
            )
        return found

    @property
    def product_dtype(self) -> torch.dtype:
        """The dtype that matrix products run in."""
        narrow = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        return narrow.get(self.precision, torch.float32)


# -------------------------------------------------------------------------------------------------
# Measured points, kept as JSON lines so that no point is measured twice.
# -------------------------------------------------------------------------------------------------

EFFICIENCY_FILE = "efficiency.jsonl"
# What must be the same for points to be beside each other, inside of provenance.
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
        utilization: Operations per second of the median repeat over that peak.
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


# -------------------------------------------------------------------------------------------------
# How time grows with length: an exponent, and what is fixed, linear and quadratic in it.
# -------------------------------------------------------------------------------------------------

LEVEL = 0.95
MIN_LENGTHS = 2
_MIN_FOR_INTERVAL = 3
_MIN_FOR_PARTS = 4  # three parts meet any three points


@dataclass(frozen=True)
class Parts:
    """Time as fixed + linear * n + quadratic * n**2, none of them negative.

    Attributes:
        worst_error: The largest part by which the sum misses a time.
    """

    fixed: float
    linear: float
    quadratic: float
    worst_error: float

    def at(self, length: float) -> float:
        """Return the time at a length."""
        return self.fixed + self.linear * length + self.quadratic * length**2

    def quadratic_share(self, length: float) -> float:
        """Return what part of the time at a length is quadratic."""
        return self.quadratic * length**2 / self.at(length)


@dataclass(frozen=True)
class Growth:
    """How a time grows over lengths.

    Attributes:
        exponent: Slope of log time over log length.
        low: Lower end of its interval; None below three lengths.
        high: Upper end.
        parts: None below four lengths.
    """

    exponent: float
    low: float | None
    high: float | None
    parts: Parts | None


def fit_growth(lengths: Sequence[int], seconds: Sequence[float]) -> Growth:
    """Fit an exponent and parts to one time (the median of its repeats) per length.

    The interval is Student's, for the slope of a straight line through log times: its residuals
    hold the noise of the machine and the bend of a curve that is no power, and both widen it. The
    parts minimize the sum of squared relative errors.

    Raises:
        ValueError: There are fewer than two lengths, or a time is not positive.
    """
    if len(set(lengths)) < MIN_LENGTHS or len(lengths) != len(seconds) or min(seconds) <= 0:
        raise ValueError("a growth needs positive times of at least two lengths")
    x, y = np.log(lengths), np.log(seconds)
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    if len(lengths) < _MIN_FOR_INTERVAL:
        return Growth(slope, None, None, None)
    freedom = len(lengths) - 2
    error = math.sqrt(np.square(y - slope * x).sum() / freedom / (x @ x))
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    parts = _parts(lengths, seconds) if len(lengths) >= _MIN_FOR_PARTS else None
    return Growth(slope, slope - half, slope + half, parts)


def _parts(lengths: Sequence[int], seconds: Sequence[float]) -> Parts:
    n: NDArray[np.float64] = np.asarray(lengths, dtype=np.float64)
    t: NDArray[np.float64] = np.asarray(seconds, dtype=np.float64)
    longest = n.max()
    x = n / longest
    columns = np.stack([np.ones_like(x), x, x**2], axis=1) / t[:, None]
    weights, _ = optimize.nnls(columns, np.ones_like(t))
    errors = np.abs(columns @ weights - 1)
    fixed, linear, quadratic = (float(weight) for weight in weights)
    return Parts(
        fixed, linear / float(longest), quadratic / float(longest) ** 2, float(errors.max())
    )


def crossings(
    lengths: Sequence[int], ours: Sequence[float], theirs: Sequence[float]
) -> list[float]:
    """Return the lengths at which two curves cross, on straight lines in a log-log plot."""
    gaps = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    found = []
    for place in range(len(gaps) - 1):
        left, right = gaps[place], gaps[place + 1]
        if left * right < 0:
            begin, end = math.log(lengths[place]), math.log(lengths[place + 1])
            found.append(math.exp(begin + (end - begin) * left / (left - right)))
    return found
