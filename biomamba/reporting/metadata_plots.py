"""Figures by year and by subject as pictures."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biomamba.reporting.metadata_figures import GroupFigure

# Colours that the colour-blind tell apart (Okabe and Ito).
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SIGNIFICANT = 0.05


def years_plot(figures: Sequence[GroupFigure], newest: Mapping[str, int]) -> bytes:
    """Draw bits per byte by year with bands, and below how they change, as a PNG.

    A column of panels per source. Behind the newest year of a training run (by its name) a dashed
    line stands: no document of that run is younger.
    """
    sources = list(dict.fromkeys(figure.source for figure in figures))
    rows = 2 if any(figure.change is not None for figure in figures) else 1
    # Not pyplot: it would look for a screen.
    figure = Figure(figsize=(max(6.0, 4.6 * len(sources)), 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, len(sources), squeeze=False, sharex="col")
    for column, source in enumerate(sources):
        mine = [found for found in figures if found.source == source]
        _year_lines(panels[0][column], mine, is_change=False)
        panels[0][column].set(title=source)
        if rows == 2:
            _year_lines(panels[1][column], mine, is_change=True)
            panels[1][column].axhline(0, color=_COLOURS[0], linewidth=1)
        panels[-1][column].set_xlabel("year of publication")
        panels[-1][column].xaxis.get_major_locator().set_params(integer=True)
        for row in range(rows):
            _mark_newest(panels[row][column], newest, is_named=row == 0)
    panels[0][0].set_ylabel("bits per byte")
    if rows == 2:
        panels[1][0].set_ylabel("change of bits per byte")
    panels[0][0].legend(fontsize="small", frameon=False)
    return _png(figure)


def subjects_plot(figures: Sequence[GroupFigure]) -> bytes:
    """Draw the changes of one source, a line per subject and a column per model, as a PNG.

    The number of a cell is its change; a star follows where it is significant after correction.
    """
    changed = [found for found in figures if found.change is not None]
    models = list(dict.fromkeys(found.model for found in changed))
    cells = {(found.group, found.model): found for found in changed}
    groups = list(dict.fromkeys(found.group for found in changed))
    groups.sort(key=lambda group: _change(cells[group, models[0]]))
    values = np.array([[_change(cells[group, model]) for model in models] for group in groups])
    size = (4.5 + 1.3 * len(models), 1.3 + 0.24 * len(groups))
    figure = Figure(figsize=size, layout="constrained")
    panel = figure.subplots()
    limit = float(np.abs(values).max()) or 1.0
    image = panel.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    labels = [f"{group} ({cells[group, models[0]].num_documents:,})" for group in groups]
    panel.set_yticks(range(len(groups)), labels, fontsize="small")
    panel.set_xticks(range(len(models)), models, fontsize="small")
    for row, group in enumerate(groups):
        for column, model in enumerate(models):
            value, holm = values[row, column], cells[group, model].p_holm
            star = "*" if holm is not None and holm < _SIGNIFICANT else ""
            shade = "white" if abs(value) > 0.6 * limit else "black"
            style = {"color": shade, "fontsize": "x-small"}
            place = {"horizontalalignment": "center", "verticalalignment": "center"}
            panel.text(column, row, f"{value:+.3f}{star}", fontdict=style | place)
    figure.colorbar(image, ax=panel, label="change of bits per byte")
    return _png(figure)


def _year_lines(panel: Axes, figures: Sequence[GroupFigure], *, is_change: bool) -> None:
    for number, model in enumerate(dict.fromkeys(found.model for found in figures)):
        line = [
            (int(f.group), f.change if is_change else f.bits) for f in figures if f.model == model
        ]
        known = [(year, found) for year, found in line if found is not None]
        if not known:
            continue
        years = [year for year, _ in known]
        colour = _COLOURS[number % len(_COLOURS)]
        values = [found.value for _, found in known]
        panel.plot(years, values, marker="o", markersize=3, color=colour, label=model)
        low, high = [found.low for _, found in known], [found.high for _, found in known]
        panel.fill_between(years, low, high, color=colour, alpha=0.2, linewidth=0)
    panel.grid(alpha=0.3)


def _mark_newest(panel: Axes, newest: Mapping[str, int], *, is_named: bool) -> None:
    for year in sorted(set(newest.values())):
        panel.axvline(year + 0.5, color="0.4", linestyle="--", linewidth=1)
        if is_named:
            names = ", ".join(name for name, found in newest.items() if found == year)
            panel.annotate(
                f"newest of {names}",
                (year + 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-3, -3),
                textcoords="offset points",
                fontsize="x-small",
                rotation=90,
                ha="right",
                va="top",
            )


def _change(figure: GroupFigure) -> float:
    assert figure.change is not None
    return figure.change.value


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
