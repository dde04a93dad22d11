"""Comparisons of models as pictures."""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from biomamba.evaluation.comparison_records import ComparisonRecord

# Colours that the colour-blind tell apart (Okabe and Ito).
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MAX_COLUMNS = 3


def intervals_plot(records: Sequence[ComparisonRecord]) -> bytes:
    """Draw every figure of every model as a dot with its interval, as a PNG.

    A panel per metric, a line per source or task; models are beside each other in their order.
    """
    metrics = list(dict.fromkeys(record.metric for record in records))
    models = list(dict.fromkeys(record.model for record in records))
    most = max(len({r.subject for r in records if r.metric == metric}) for metric in metrics)
    columns = min(len(metrics), _MAX_COLUMNS)
    lines = -(-len(metrics) // columns)
    height = lines * (1.1 + 0.25 * most * (len(models) + 1)) + 0.4
    # Not pyplot: it would look for a screen.
    figure = Figure(figsize=(4.2 * columns, height), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, metric in zip(panels, metrics, strict=False):
        _intervals_panel(panel, [r for r in records if r.metric == metric], models)
    for panel in panels[len(metrics) :]:
        panel.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(models), frameon=False)
    return _png(figure)


def _intervals_panel(panel: Axes, records: Sequence[ComparisonRecord], models: list[str]) -> None:
    subjects = list(dict.fromkeys(record.subject for record in records))
    for number, model in enumerate(models):
        mine = [record for record in records if record.model == model]
        offset = (number - (len(models) - 1) / 2) * 0.8 / len(models)
        places = [subjects.index(record.subject) + offset for record in mine]
        bounds = [[_reach(r.value, r.low) for r in mine], [_reach(r.high, r.value) for r in mine]]
        panel.errorbar(
            [record.value for record in mine],
            places,
            xerr=bounds,
            fmt="o",
            markersize=4,
            capsize=2,
            linewidth=1.2,
            color=_COLOURS[number % len(_COLOURS)],
            label=model,
        )
    panel.set_yticks(range(len(subjects)), subjects)
    panel.set_ylim(len(subjects) - 0.5, -0.5)
    better = {True: ", higher is better", False: ", lower is better", None: ""}
    panel.set_xlabel(records[0].metric + better[records[0].higher_is_better])
    panel.grid(axis="x", alpha=0.3)


def _reach(upper: float, lower: float) -> float:
    """Return the length of one arm; none where a bound is not known."""
    return max(0.0, upper - lower) if math.isfinite(upper - lower) else 0.0


def changes_plot(changes: Mapping[str, Mapping[str, NDArray[np.float64]]], reference: str) -> bytes:
    """Draw how bits per byte of the single documents differ from the reference, as a PNG.

    changes maps a source to models to the differences (documents,), model minus reference; those
    that are not numbers are left out. A panel per source: the share of the documents that change by
    at most so much, of which those left of the line got better.
    """
    columns = min(len(changes), _MAX_COLUMNS)
    lines = -(-len(changes) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, (source, models) in zip(panels, changes.items(), strict=False):
        # The reference has the first colour in every picture.
        for colour, (model, values) in zip(
            _COLOURS[1:] * len(models), models.items(), strict=False
        ):
            ordered = np.sort(values[np.isfinite(values)])
            share = np.arange(1, len(ordered) + 1) / max(1, len(ordered))
            better = float((ordered < 0).mean()) if len(ordered) else 0.0
            label = f"{model}: {better:.0%} of {len(ordered):,} lower"
            panel.step(ordered, share, where="post", color=colour, linewidth=1.5, label=label)
        panel.axvline(0, color="0.5", linewidth=1)
        panel.set(title=source, ylim=(0, 1), ylabel="share of the documents")
        panel.set_xlabel(f"bits per byte minus those of {reference}")
        panel.legend(fontsize="small", loc="best")
        panel.grid(alpha=0.3)
    for panel in panels[len(changes) :]:
        panel.set_axis_off()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
