"""Figures of groups of documents as a table."""

import math
from collections.abc import Sequence

from biomamba.metrics.interval import Interval
from biomamba.reporting.metadata_figures import GroupFigure
from biomamba.reporting.section import Table, csv_of
from biomamba.reporting.tables import interval_cell

_NONE = "-"
_FIGURES = ("bits_per_byte", "perplexity", "change")


def figures_table(
    name: str, caption: str, group: str, figures: Sequence[GroupFigure], files: Sequence[str]
) -> Table:
    """Return one line per group and model; columns that say nothing are left out.

    The CSV file has all columns and digits.
    """
    header = ["source", group, "documents", "model", "bits per byte", "perplexity"]
    header += ["change", "p", "p (Holm)"]
    lines = [_cells(figure) for figure in figures]
    used = [i for i in range(len(header)) if any(line[i] != _NONE for line in lines)]
    return Table(
        name=name,
        caption=caption,
        header=[header[i] for i in used],
        rows=[[line[i] for i in used] for line in lines],
        files=files,
        values=_values(group, figures),
    )


def _cells(figure: GroupFigure) -> list[str]:
    change = figure.change
    bounds = None if change is None else Interval(change.value, change.low, change.high)
    return [
        figure.source,
        figure.group,
        f"{figure.num_documents:,}",
        figure.model,
        _interval(figure.bits, ".3f"),
        _interval(figure.perplexity, ".2f"),
        _interval(bounds, "+.3f"),
        _NONE if change is None or figure.p_holm is None else _probability(change.p_value),
        _NONE if figure.p_holm is None else _probability(figure.p_holm),
    ]


def _interval(found: Interval | None, style: str) -> str:
    if found is None:
        return _NONE
    return interval_cell(found, style)


def _probability(value: float) -> str:
    if math.isnan(value):
        return _NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _values(group: str, figures: Sequence[GroupFigure]) -> str:
    header = ["source", group, "documents", "model"]
    header += [f"{figure}{end}" for figure in _FIGURES for end in ("", "_low", "_high")]
    rows = []
    for figure in figures:
        numbers = [
            number
            for found in (figure.bits, figure.perplexity, figure.change)
            for number in ((found.value, found.low, found.high) if found else (None,) * 3)
        ]
        numbers += [figure.change.p_value if figure.change else None, figure.p_holm]
        cells = [
            "" if number is None or math.isnan(number) else repr(float(number))
            for number in numbers
        ]
        rows.append([figure.source, figure.group, figure.num_documents, figure.model, *cells])
    return csv_of([*header, "p", "p_holm"], rows)
