"""Figures of records."""

from dataclasses import replace

import pytest
from matplotlib.axes import Axes

from biomamba.evaluation.records import ResultRecord
from biomamba.reporting.plots import positions_plot

WHOLE = ResultRecord(
    model="base",
    source="pubmed",
    split="test",
    metric="perplexity",
    unit="",
    value=8.0,
    low=7.0,
    high=9.0,
    level=0.95,
    num_documents=3,
    num_tokens=100,
    num_bytes=400,
    provenance={},
)
FIRST = replace(WHOLE, first_position=0, end_position=64, value=9.0)
SECOND = replace(WHOLE, first_position=64, end_position=128, value=7.5)


def test_every_model_is_a_line_through_its_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[list[float], list[float], str]] = []
    plot = Axes.plot

    def record(panel: Axes, x: list[float], y: list[float], **style: object) -> object:
        drawn.append((x, y, str(style["label"])))
        return plot(panel, x, y, **style)

    monkeypatch.setattr(Axes, "plot", record)
    other = [replace(r, model="adapted", value=r.value - 1) for r in (FIRST, SECOND)]
    image = positions_plot([WHOLE, FIRST, SECOND, *other])

    middle = pytest.approx([8.0, (64 * 128) ** 0.5])
    assert drawn == [(middle, [9.0, 7.5], "base"), (middle, [8.0, 6.5], "adapted")]
    assert image.startswith(b"\x89PNG")


def test_every_source_has_a_panel() -> None:
    wide = positions_plot([FIRST, replace(FIRST, source="web")])
    assert _width(wide) == 2 * _width(positions_plot([FIRST]))


def _width(image: bytes) -> int:
    return int.from_bytes(image[16:20], "big")
