"""Comparisons of models as pictures."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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

    A row of panels per metric, a line per source or task: on the left the figures, on the right how
    they differ from the model that they are compared with, on the same items.
    """
    metrics = list(dict.fromkeys(record.metric for record in records))
    models = list(dict.fromkeys(record.model for record in records))
    sizes = [len({r.subject for r in records if r.metric == metric}) for metric in metrics]
    heights = [0.8 + 0.22 * size * (len(models) + 1) for size in sizes]
    # Not pyplot: it would look for a screen.
    figure = Figure(figsize=(9, sum(heights) + 0.4), layout="constrained")
    rows = figure.subplots(len(metrics), 2, squeeze=False, height_ratios=heights)
    for (left, right), metric in zip(rows, metrics, strict=True):
        mine = [record for record in records if record.metric == metric]
        subjects = list(dict.fromkeys(record.subject for record in mine))
        _intervals_panel(left, [_Dot(r, r.value, r.low, r.high) for r in mine], subjects, models)
        differences = [
            _Dot(r, r.difference, r.difference_low or 0.0, r.difference_high or 0.0)
            for r in mine
            if r.difference is not None
        ]
        _intervals_panel(right, differences, subjects, models)
        better = {True: ", higher is better", False: ", lower is better", None: ""}
        left.set_xlabel(metric + better[mine[0].higher_is_better])
        against = next((r.against for r in mine if r.against), "")
        right.set_xlabel(f"{metric} minus that of {against}")
        right.axvline(0, color=_COLOURS[0], linewidth=1)
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(models), frameon=False)
    return _png(figure)


@dataclass(frozen=True)
class _Dot:
    """A value with bounds, and the record that it is of."""

    record: ComparisonRecord
    value: float
    low: float
    high: float


def _intervals_panel(
    panel: Axes, dots: Sequence[_Dot], subjects: list[str], models: list[str]
) -> None:
    for number, model in enumerate(models):
        mine = [dot for dot in dots if dot.record.model == model]
        offset = (number - (len(models) - 1) / 2) * 0.8 / len(models)
        panel.errorbar(
            [dot.value for dot in mine],
            [subjects.index(dot.record.subject) + offset for dot in mine],
            xerr=[
                [_reach(dot.value, dot.low) for dot in mine],
                [_reach(dot.high, dot.value) for dot in mine],
            ],
            fmt="o",
            markersize=4,
            capsize=2,
            linewidth=1.2,
            color=_COLOURS[number % len(_COLOURS)],
            label=model,
        )
    panel.set_yticks(range(len(subjects)), subjects)
    panel.set_ylim(len(subjects) - 0.5, -0.5)
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
            share = np.arange(len(ordered) + 1) / max(1, len(ordered))
            better = float((ordered < 0).mean()) if len(ordered) else 0.0
            label = f"{model}: {better:.0%} of {len(ordered):,} lower"
            places = np.concatenate([ordered[:1], ordered])
            panel.step(places, share, where="post", color=colour, linewidth=1.5, label=label)
        panel.axvline(0, color="0.5", linewidth=1)
        panel.set(title=source, ylim=(0, 1), ylabel="share of the documents")
        panel.set_xlabel(f"bits per byte minus those of {reference}")
        panel.legend(fontsize="small", loc="best")
        panel.locator_params(axis="x", nbins=5)
        panel.grid(alpha=0.3)
    for panel in panels[len(changes) :]:
        panel.set_axis_off()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
