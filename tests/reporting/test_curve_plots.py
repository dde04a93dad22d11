"""Learning curves as pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from biomamba.reporting import plots as curve_plots
from biomamba.reporting.groups import RunGroup
from biomamba.reporting.inputs import TrainingRun, read_training_run
from biomamba.reporting.plots import (
    band_of,
    loss_plot,
    validation_plot,
    validation_sources,
)

WriteRun = Callable[..., Path]


def alone(runs: list[TrainingRun]) -> list[RunGroup]:
    return [RunGroup(run.name, (run,)) for run in runs]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return the figures that a test draws."""
    found: list[Figure] = []

    def keep(figure: Figure) -> bytes:
        found.append(figure)
        return b"\x89PNG"

    monkeypatch.setattr(curve_plots, "png_of", keep)
    return found


@pytest.fixture
def runs(write_run: WriteRun, tmp_path: Path) -> list[TrainingRun]:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", tokens=4_000)
    return [read_training_run(name, tmp_path / name) for name in "ab"]


def test_runs_on_the_same_sources_share_a_panel(
    runs: list[TrainingRun], drawn: list[Figure]
) -> None:
    loss_plot(alone(runs))
    (panel,) = drawn[0].axes
    assert [list(line.get_xdata()) for line in panel.lines] == [[1.0, 2.0], [2.0, 4.0]]
    assert [list(line.get_ydata()) for line in panel.lines] == [[4.0, 3.0], [4.0, 3.0]]
    assert panel.get_xlabel() == "tokens trained on, thousands"
    other = {**runs[1].record, "sources": {"quiz": {}}}
    runs[1] = TrainingRun(**{**vars(runs[1]), "record": other})
    loss_plot(alone(runs))
    assert [len(panel.lines) for panel in drawn[1].axes] == [1, 1]


def test_steps_where_a_run_logged_no_tokens(runs: list[TrainingRun], drawn: list[Figure]) -> None:
    curves = {tag: curve for tag, curve in runs[0].curves.items() if tag != "data/tokens"}
    runs[0] = TrainingRun(**{**vars(runs[0]), "curves": curves})
    loss_plot(alone(runs))
    (panel,) = drawn[0].axes
    assert [list(line.get_xdata()) for line in panel.lines] == [[10, 20], [10, 20]]
    assert panel.get_xlabel() == "steps"


def test_before_and_after_are_dots(runs: list[TrainingRun], drawn: list[Figure]) -> None:
    assert validation_sources(alone(runs)) == ["pubmed", "web"]
    validation_plot(alone(runs[:1]))
    curve, before, after = drawn[0].axes[0].lines
    assert list(curve.get_ydata()) == [4.0, 3.5]
    assert (list(before.get_xdata()), list(before.get_ydata())) == ([0], [5.0])
    assert (list(after.get_xdata()), list(after.get_ydata())) == ([2.0], [3.5])
    assert before.get_markerfacecolor() == "white"
    assert after.get_markerfacecolor() != "white"


def test_seeds_are_a_mean_in_a_band(runs: list[TrainingRun], drawn: list[Figure]) -> None:
    assert band_of([{1: 2.0, 2: 3.0, 3: 9.0}, {1: 4.0, 2: 1.0}]) == (
        {1: 3.0, 2: 2.0},
        {1: 2.0, 2: 1.0},
        {1: 4.0, 2: 3.0},
    )
    curves = {**runs[0].curves, "train/loss": {10: 6.0, 20: 5.0}}
    twin = TrainingRun(**{**vars(runs[0]), "curves": curves})
    loss_plot([RunGroup("both", (runs[0], twin))])
    (panel,) = drawn[0].axes
    (line,), (band,) = panel.lines, panel.collections
    assert list(line.get_ydata()) == [5.0, 4.0]
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (3.0, 6.0)
