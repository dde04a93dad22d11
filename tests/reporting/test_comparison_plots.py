"""Comparisons of models as pictures."""

import io
import math
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from biomamba.evaluation.comparison import ComparisonRecord
from biomamba.reporting.plots import changes_plot, intervals_plot


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return the figures that a test draws."""
    found: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: object, **settings: object) -> None:
        found.append(self)
        save(self, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    return found


def make_record(subject: str, metric: str, model: str, value: float) -> ComparisonRecord:
    return ComparisonRecord(
        subject=subject,
        metric=metric,
        higher_is_better=True,
        protocol={},
        n=50,
        n_groups=50,
        model=model,
        seed_values=[value],
        value=value,
        deviation=math.nan,
        seeds_low=math.nan,
        seeds_high=math.nan,
        low=math.nan if subject == "lone" else value - 0.1,
        high=math.nan if subject == "lone" else value + 0.2,
        level=0.95,
        method="wilson",
        checkpoints=["c"],
        against=None if model == "base" else "base",
        difference=None if model == "base" else 0.05,
        difference_low=-0.01,
        difference_high=0.11,
    )


def test_every_figure_is_a_dot_with_its_interval(drawn: list[Figure]) -> None:
    values = {
        (subject, metric, model): 0.1 * s + 0.3 * m + 0.05 * n
        for s, subject in enumerate(("qa", "notes", "lone"))
        for m, metric in enumerate(("accuracy", "f1"))
        for n, model in enumerate(("base", "adapted"))
    }
    picture = intervals_plot([make_record(*key, value) for key, value in values.items()])

    assert imread(io.BytesIO(picture)).ndim == 3
    panels = drawn[0].get_axes()
    assert [panel.get_xlabel() for panel in panels] == [
        "accuracy, higher is better",
        "accuracy minus that of base",
        "f1, higher is better",
        "f1 minus that of base",
    ]
    for panel, metric in zip(panels[::2], ("accuracy", "f1"), strict=True):
        assert [t.get_text() for t in panel.get_yticklabels()] == ["qa", "notes", "lone"]
        for bars, model in zip(panel.containers, ("base", "adapted"), strict=True):
            shown = [values[subject, metric, model] for subject in ("qa", "notes", "lone")]
            expected = [[v - 0.1, v + 0.2] for v in shown[:2]] + [[shown[2]] * 2]
            dots, arms = drawn_bars(bars)
            assert dots == shown
            assert np.array(arms) == pytest.approx(np.array(expected))
    for panel in panels[1::2]:
        base, adapted = (drawn_bars(bars) for bars in panel.containers)
        assert base == ([], [])
        assert np.array(adapted[1]) == pytest.approx(np.array([[-0.01, 0.11]] * 3))


def drawn_bars(bars: Any) -> tuple[list[float], list[list[float]]]:
    """Return the dots of an errorbar and the ends of its arms."""
    dots, _, (arms,) = bars.lines
    return list(dots.get_xdata()), [segment[:, 0].tolist() for segment in arms.get_segments()]


def test_the_share_of_documents_rises_from_none_to_all(drawn: list[Figure]) -> None:
    values = np.array([0.3, -0.1, math.nan, -0.2, 0.0])
    picture = changes_plot({"pubmed": {"adapted": values}, "web": {"adapted": values}}, "base")

    assert imread(io.BytesIO(picture)).ndim == 3
    first, _ = drawn[0].get_axes()
    line = first.get_lines()[0]
    assert np.asarray(line.get_xdata()).tolist() == [-0.2, -0.2, -0.1, 0.0, 0.3]
    assert np.asarray(line.get_ydata()).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert line.get_label() == "adapted: 50% of 4 lower"
    assert (first.get_title(), first.get_xlabel()) == (
        "pubmed",
        "bits per byte minus those of base",
    )
