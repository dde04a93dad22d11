"""Time and memory over length, as pictures."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

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

    A model has one colour in all panels. A cross at the top marks where memory ran out.
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
