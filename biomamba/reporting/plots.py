"""Figures of records, for those who would rather see than read them."""

import io
from collections.abc import Sequence

from matplotlib.figure import Figure

from biomamba.evaluation.records import ResultRecord


def positions_plot(records: Sequence[ResultRecord]) -> bytes:
    """Draw the perplexity by position in the document, a panel per source, as a PNG.

    Each bucket of positions is one point in its middle, the band is its interval. Records without
    positions are left out; there must be one with them.
    """
    placed = [record for record in records if record.first_position is not None]
    sources = list(dict.fromkeys(record.source for record in placed))
    # Not pyplot: it would look for a screen.
    figure = Figure(figsize=(4.5 * len(sources), 3.5), layout="constrained")
    panels = figure.subplots(1, len(sources), squeeze=False)[0]
    for panel, source in zip(panels, sources, strict=True):
        for model in dict.fromkeys(record.model for record in placed):
            line = [r for r in placed if (r.source, r.model) == (source, model)]
            middle = [_middle(record) for record in line]
            panel.plot(middle, [r.value for r in line], marker="o", markersize=3, label=model)
            panel.fill_between(middle, [r.low for r in line], [r.high for r in line], alpha=0.2)
        panel.set_xscale("log", base=2)
        panel.set(title=source, xlabel="position in the document, tokens", ylabel="perplexity")
        panel.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _middle(record: ResultRecord) -> float:
    """Return the geometric middle of a bucket; the first one begins at 0."""
    assert record.first_position is not None
    assert record.end_position is not None
    return float((max(record.first_position, 1) * record.end_position) ** 0.5)
