"""Recipes beside each other as pictures: figures with intervals, and the seeds as small dots."""

import io
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biomamba.evaluation.comparison_records import ComparisonRecord

# Colours that the colour-blind tell apart (Okabe and Ito).
_PLAIN, _TOLD, _SEED = "0.35", "#D55E00", "#0072B2"
_MAX_COLUMNS = 3
_SIGNIFICANT = 0.05


def recipes_plot(records: Sequence[ComparisonRecord], reference: str) -> bytes:
    """Draw one figure of every model, a panel per subject and a line per model, as a PNG.

    Large dots are means with their intervals, small ones the seeds. The line is the reference; what
    differs from it by p (Holm) below 0.05 is filled in the second colour.
    """
    subjects = list(dict.fromkeys(record.subject for record in records))
    models = list(dict.fromkeys(record.model for record in records))
    columns = min(len(subjects), _MAX_COLUMNS)
    lines = -(-len(subjects) // columns)
    height = 1.1 + 0.34 * len(models)
    # Not pyplot: it would look for a screen.
    figure = Figure(figsize=(1.6 + 3.1 * columns, height * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for panel, subject in zip(panels, subjects, strict=False):
        for record in records:
            if record.subject == subject:
                _draw(panel, record, models.index(record.model))
                if record.model == reference:
                    panel.axvline(record.value, color="0.6", linewidth=1, linestyle=(0, (4, 3)))
        panel.set_yticks(range(len(models)), models)
        panel.set_ylim(len(models) - 0.5, -0.5)
        panel.set(title=subject, xlabel=records[0].metric.replace("_", " "))
        panel.locator_params(axis="x", nbins=4)
        panel.grid(axis="x", alpha=0.3)
    for panel in panels[len(subjects) :]:
        panel.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _draw(panel: Axes, record: ComparisonRecord, line: int) -> None:
    is_told = record.p_holm is not None and record.p_holm < _SIGNIFICANT
    colour = _TOLD if is_told else _PLAIN
    arms = [[arm_of(record.value, record.low)], [arm_of(record.high, record.value)]]
    panel.errorbar(
        [record.value],
        [line],
        xerr=arms,
        fmt="o",
        markersize=6,
        capsize=3,
        linewidth=1.4,
        color=colour,
        markerfacecolor=colour if is_told else "white",
    )
    if len(record.seed_values) > 1:
        places = [line + 0.27] * len(record.seed_values)
        panel.plot(record.seed_values, places, "o", markersize=2.5, color=_SEED, alpha=0.8)


def arm_of(upper: float, lower: float) -> float:
    """Return the length of one arm of an interval; none where a bound is not known."""
    return max(0.0, upper - lower) if math.isfinite(upper - lower) else 0.0
