"""Time and memory over length in a report: points, exponents, crossings, plots."""

import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from biomamba.reporting.section import Part, Picture, Section, Table, csv_of
from biomamba.timing.records import (
    DECODE,
    EFFICIENCY_FILE,
    LEVEL,
    MIN_LENGTHS,
    PHASES,
    PREFILL,
    TRAIN,
    Curve,
    EfficiencyRecord,
    Growth,
    crossings,
    curves,
    fit_growth,
)

# -------------------------------------------------------------------------------------------------
# Time and memory over length, as pictures.
# -------------------------------------------------------------------------------------------------

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = "osv^D"
_COLUMNS = 2


@dataclass(frozen=True)
class Line:
    """Figures of one model over lengths; low and high bound the repeats of each, if there are any.

    Attributes:
        ends_at: The shortest length that did not fit into memory; None if all did.
    """

    lengths: Sequence[int]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    ends_at: int | None = None


def growth_plot(panels: Mapping[str, Mapping[str, Line]]) -> bytes:
    """Draw a log-log panel of every title with the lines of its models, as a PNG.

    A model has one color in all panels. A cross at the top marks where memory ran out.
    """
    rows = -(-len(panels) // _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for axes, (title, lines) in zip(grid, panels.items(), strict=False):
        for name, line in lines.items():
            number = names.index(name)
            colour = _COLOURS[number % len(_COLOURS)]
            mark = _MARKS[number % len(_MARKS)]
            if line.lengths:
                axes.plot(
                    line.lengths, line.values, mark + "-", color=colour, label=name, markersize=4
                )
            if line.low:
                axes.fill_between(line.lengths, line.low, line.high, color=colour, alpha=0.2)
            if line.ends_at is not None:
                top = axes.get_xaxis_transform()
                label = f"{name}: out of memory"
                axes.plot([line.ends_at], [0.97], "x", color=colour, transform=top, label=label)
        axes.set_xscale("log", base=2)
        if any(line.lengths for line in lines.values()):  # crosses alone have no place on it
            axes.set_yscale("log")
        axes.set(xlabel="tokens of a row", ylabel=title)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small", frameon=False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


# -------------------------------------------------------------------------------------------------
# Time and memory over length in a report: every point, exponents, and where curves cross.
# -------------------------------------------------------------------------------------------------

TITLE = "Time and memory over length"
_NONE = "-"
_WHAT = {
    TRAIN: "ms of a training step",
    PREFILL: "ms to the first token",
    DECODE: "ms per new token",
}
_GIB = 2**30
_MIN_SHARE = 0.005  # of a square below which the length where it takes over means nothing
Values = Callable[[EfficiencyRecord], list[float]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A folder of measurements: its name in the report, where it is, and its points."""

    name: str
    folder: Path
    records: Sequence[EfficiencyRecord]

    @property
    def file(self) -> str:
        """The file of the points."""
        return str(self.folder / EFFICIENCY_FILE)


def efficiency_sections(measured: Sequence[Measured]) -> list[Section]:
    """Return the section over all folders of measurements; none without any."""
    found = [each for each in measured if each.records]
    if not found:
        return []
    parts: list[Part] = [_models_text(found)]
    for number, each in enumerate(found, start=1):
        suffix = "" if len(found) == 1 else f"_{number}"
        parts.append(_picture(each, suffix))
        growth = _growth_table(each, suffix)
        parts += [growth] if growth else []
        parts += _crossing_texts(each)
    parts.append(_points_table(found))
    return [Section(TITLE, parts)]


def _models_text(measured: Sequence[Measured]) -> str:
    told = []
    for each in measured:
        models = {record.model: record for record in each.records if record.num_parameters}
        sizes = [
            f"{name} {record.num_parameters:,} parameters ({_shape(record)})"
            for name, record in models.items()
        ]
        first = each.records[0]
        told.append(f"{each.name}: {'; '.join(sizes)}; {first.precision} on {_hardware(first)}.")
    return (
        f"{' '.join(told)} All models of a folder took turns in one process. A Transformer is "
        "GPT-NeoX of equal size with SDPA attention; head, loss and optimizer are those of ours."
    )


def _shape(record: EfficiencyRecord) -> str:
    shape = dict(record.shape)
    words = [f"{shape.get('n_layer')} blocks of {shape.get('d_model')}"]
    words += [f"scan: {shape['backend']}"] if "backend" in shape else []
    return ", ".join(words)


def _hardware(record: EfficiencyRecord) -> str:
    machine = record.provenance.get("machine") or {}
    gpus = list(machine.get("gpus") or [])
    if record.device == "cuda" and gpus:
        return str(gpus[0])
    threads = record.conditions.get("threads", machine.get("num_cores", "?"))
    return f"{machine.get('cpu', 'a CPU')}, {threads} threads"


def _picture(measured: Measured, suffix: str) -> Picture:
    panels: dict[str, dict[str, Line]] = {}
    records = sorted(measured.records, key=lambda r: (PHASES.index(r.phase), r.length))
    batches = sorted({record.batch for record in records})
    for phase in dict.fromkeys(record.phase for record in records):
        for what, value in ((_WHAT[phase], _milliseconds), (f"GiB, {phase}", _gibibytes)):
            lines = panels.setdefault(what, {})
            for batch in batches:
                here = [r for r in records if (r.phase, r.batch) == (phase, batch)]
                rows = f", {batch} rows" if len(batches) > 1 else ""
                for name in dict.fromkeys(record.model for record in here):
                    line = _line([r for r in here if r.model == name], value)
                    if line.lengths or line.ends_at is not None:
                        lines[f"{name}{rows}"] = line
            if not lines:
                del panels[what]
    return Picture(
        name=f"efficiency_plot{suffix}",
        caption=f"{measured.name}: time and peak memory over the length of a row, both axes "
        "logarithmic. Dots: medians; bands: from the fastest to the slowest repeat; a cross: out "
        "of memory.",
        png=growth_plot(panels),
        files=[measured.file],
    )


def _milliseconds(record: EfficiencyRecord) -> list[float]:
    return [1_000 * s / (record.new_tokens or 1) for s in record.seconds]


def _gibibytes(record: EfficiencyRecord) -> list[float]:
    return [] if record.memory_bytes is None else [record.memory_bytes / _GIB]


def _line(records: Sequence[EfficiencyRecord], values: Values) -> Line:
    drawn = [(record.length, sorted(values(record))) for record in records if values(record)]
    failed = [record.length for record in records if record.failure is not None]
    return Line(
        lengths=[length for length, _ in drawn],
        values=[statistics.median(found) for _, found in drawn],
        low=[found[0] for _, found in drawn],
        high=[found[-1] for _, found in drawn],
        ends_at=min(failed, default=None),
    )


def _growth_table(measured: Measured, suffix: str) -> Table | None:
    rows, values = [], []
    for curve in _sorted(curves(measured.records)):
        if len(curve.lengths) < MIN_LENGTHS:
            continue
        growth = fit_growth(curve.lengths, curve.seconds)
        span = f"{curve.lengths[0]:,} to {curve.lengths[-1]:,}"
        head = [curve.phase, curve.model, str(curve.batch), span]
        rows.append([*head, _exponent(growth), *_parts(growth, curve.lengths[-1])])
        values.append([*head, *_digits(growth)])
    if not rows:
        return None
    names = ["phase", "model", "rows", "lengths"]
    exact = ["exponent", "low", "high", "fixed", "linear", "quadratic", "worst_error"]
    return Table(
        name=f"efficiency_growth{suffix}",
        caption=f"{measured.name}: time ~ length^exponent by least squares on logarithms of the "
        f"medians, with Student's {LEVEL:.0%} interval of the slope: noise, and a curve that is no "
        "power, both widen it. Below the length where a square takes over an exponent is near 1 "
        "for any model, so time is also split into fixed + a n + b n^2 (none negative): the part "
        "of b n^2 at the longest length, and the length where it equals a n. The CSV file has all "
        "digits, in seconds.",
        header=[*names, "exponent", "quadratic at the end", "n^2 = n at", "largest miss"],
        rows=rows,
        files=[measured.file],
        values=csv_of([*names, *exact], values),
    )


def _exponent(growth: Growth) -> str:
    if growth.low is None:
        return f"{growth.exponent:.2f}"
    return f"{growth.exponent:.2f} [{growth.low:.2f}, {growth.high:.2f}]"


def _parts(growth: Growth, longest: int) -> list[str]:
    parts = growth.parts
    if parts is None:
        return [_NONE] * 3
    share = parts.quadratic_share(longest)
    is_seen = share >= _MIN_SHARE and parts.linear > 0
    equal = f"{parts.linear / parts.quadratic:,.0f}" if is_seen else _NONE
    return [f"{share:.0%}", equal, f"{parts.worst_error:.0%}"]


def _digits(growth: Growth) -> list[object]:
    parts = growth.parts
    split = ["", "", "", ""] if parts is None else list(vars(parts).values())
    return [growth.exponent, growth.low, growth.high, *split]


def _crossing_texts(measured: Measured) -> list[str]:
    """Say for every phase which of two models is faster where."""
    told = []
    found = _sorted(curves(measured.records))
    for phase, batch in dict.fromkeys((curve.phase, curve.batch) for curve in found):
        pair = [curve for curve in found if (curve.phase, curve.batch) == (phase, batch)]
        if len(pair) == 2:
            told.append(_crossing_text(measured.name, pair[0], pair[1]))
    return [text for text in told if text]


def _crossing_text(name: str, one: Curve, other: Curve) -> str:
    both = [length for length in one.lengths if length in other.lengths]
    if not both:
        return ""
    first, second = (
        [curve.seconds[list(curve.lengths).index(length)] for length in both]
        for curve in (one, other)
    )
    rows = f"{one.batch} row{'s' if one.batch > 1 else ''}"
    places = crossings(both, first, second)
    ratio = second[-1] / first[-1]
    fastest, factor = (one.model, ratio) if ratio >= 1 else (other.model, 1 / ratio)
    where = (
        f"the curves cross at about {', '.join(f'{place:,.0f}' for place in places)} tokens"
        if places
        else "the curves do not cross between the measured lengths"
    )
    return (
        f"{name}, {one.phase}, {rows}: {where}; at {both[-1]:,} tokens {fastest} is "
        f"{factor:.2f} times as fast."
    )


def _points_table(measured: Sequence[Measured]) -> Table:
    rows, values = [], []
    for each in measured:
        for record in sorted(each.records, key=_place):
            head = [each.name, record.phase, record.model, str(record.batch)]
            rows.append([*head, f"{record.length:,}", *_figures(record)])
            values.append([*head, record.length, *_all_figures(record)])
    names = ["folder", "phase", "model", "rows", "length"]
    return Table(
        name="efficiency_points",
        caption="Every point. Milliseconds: median of the repeats (fastest to slowest), of a "
        "training step, until the first token, or per new token after a context. Memory: weights, "
        "states and caches, and the most that came on top. Utilization: useful operations per "
        "second over those of a product of square matrices in the same turns.",
        header=[*names, "ms", "tokens/s", "GiB", "utilisation"],
        rows=rows,
        files=[each.file for each in measured],
        values=csv_of(
            [*names, "seconds", "tokens_per_second", "memory_bytes", "utilisation", "failure"],
            values,
        ),
    )


def _place(record: EfficiencyRecord) -> tuple[int, int, int, str]:
    return PHASES.index(record.phase), record.batch, record.length, record.model


def _sorted(found: Sequence[Curve]) -> list[Curve]:
    return sorted(found, key=lambda c: (PHASES.index(c.phase), c.batch, c.model))


def _figures(record: EfficiencyRecord) -> list[str]:
    memory = _NONE if record.memory_bytes is None else f"{record.memory_bytes / _GIB:.3g}"
    if record.failure is not None or record.tokens_per_second is None:
        return ["out of memory", _NONE, memory, _NONE]
    times = sorted(_milliseconds(record))
    used = _NONE if record.utilisation is None else f"{record.utilisation:.1%}"
    spread = f"{statistics.median(times):,.1f} ({times[0]:,.1f} to {times[-1]:,.1f})"
    return [spread, f"{record.tokens_per_second:,.0f}", memory, used]


def _all_figures(record: EfficiencyRecord) -> list[object]:
    return [
        record.median_seconds,
        record.tokens_per_second,
        record.memory_bytes,
        record.utilisation,
        record.failure,
    ]
