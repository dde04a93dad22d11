"""Pictures by year and subject are pictures, also of odd figures."""

import math

import pytest

from biomamba.metrics.measure import Interval
from biomamba.metrics.significance import Difference
from biomamba.reporting.metadata import GroupFigure, subjects_plot, years_plot

PNG = b"\x89PNG\r\n"


def figure(group: str, model: str, change: float | None, source: str = "s") -> GroupFigure:
    return GroupFigure(
        source=source,
        group=group,
        model=model,
        num_documents=30,
        bits=Interval(1.5, math.nan if group == "2002" else 1.25, 1.75),
        perplexity=None,
        change=None if change is None else Difference(change, change, change, 0.01, 0.1, "swaps"),
        p_holm=None if change is None else 0.01,
    )


@pytest.mark.parametrize("newest", [{}, {"run": 2001, "other": 2001, "third": 1999}])
def test_years_of_several_sources(newest: dict[str, int]) -> None:
    figures = [
        figure(year, model, change, source)
        for source in "st"
        for year in ("1999", "2001", "2002")
        for model, change in (("base", None), ("new", -0.1))
    ]
    assert years_plot(figures, newest).startswith(PNG)


def test_years_of_one_model() -> None:
    assert years_plot([figure("1999", "base", None)], {}).startswith(PNG)


@pytest.mark.parametrize("change", [-0.5, 0.0])
def test_subjects_of_several_models(change: float) -> None:
    figures = [
        figure(group, model, found)
        for group in ("C04 Neoplasms", "Aged, 80 and over")
        for model, found in (("base", None), ("new", change), ("newer", change))
    ]
    assert subjects_plot(figures).startswith(PNG)
