"""Learning curves as pictures, several runs in one."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biomamba.reporting.training_run import Curve, TrainingRun

# Colours that the colour-blind tell apart (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MAX_COLUMNS = 3
_MANY = 5e5  # tokens, from which on they are counted in millions


def loss_plot(runs: Sequence[TrainingRun]) -> bytes:
    """Draw the training loss of every run that logged it, as a PNG.

    Runs on the same sources share a panel: losses on other texts are not comparable.
    """
    colours = _colours(runs)
    groups: dict[tuple[str, ...], list[TrainingRun]] = {}
    for run in runs:
        if run.curves.get("train/loss"):
            groups.setdefault(tuple(sorted(run.record.get("sources", {}))), []).append(run)
    figure, panels = _panels(len(groups), width=5.2)
    for panel, (sources, group) in zip(panels, groups.items(), strict=False):
        scale = _Scale(group)
        for run in group:
            curve = run.curves["train/loss"]
            x, y = scale.places(run, curve), list(curve.values())
            panel.plot(x, y, color=colours[run.name], linewidth=1.4, label=run.name)
        panel.set(xlabel=scale.label, ylabel="training loss, nats per token")
        panel.set_title(", ".join(sources), fontsize="medium")
        _finish(panel)
    return png_of(figure)


def validation_plot(runs: Sequence[TrainingRun]) -> bytes:
    """Draw the validation nll of every source, a panel each, as a PNG.

    What run.json has from before and after the run is a hollow and a filled dot.
    """
    colours = _colours(runs)
    sources = validation_sources(runs)
    figure, panels = _panels(len(sources), width=3.6)
    for panel, source in zip(panels, sources, strict=False):
        here = [run for run in runs if source in validation_sources([run])]
        scale = _Scale(here)
        for run in here:
            _draw_source(panel, scale, run, source, colours[run.name])
        panel.set(title=source, xlabel=scale.label, ylabel="nll, nats per token")
        _finish(panel)
    return png_of(figure)


def validation_sources(runs: Sequence[TrainingRun]) -> list[str]:
    """Return the sources that any run was validated on."""
    logged = [
        tag.removeprefix("val/").removesuffix("/nll")
        for run in runs
        for tag in run.curves
        if tag.startswith("val/") and tag.endswith("/nll")
    ]
    return list(dict.fromkeys([*logged, *(name for r in runs for name in r.validation("nll"))]))


def png_of(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _colours(runs: Sequence[TrainingRun]) -> dict[str, str]:
    """Return a colour for each run, the same in all panels."""
    return {run.name: COLOURS[n % len(COLOURS)] for n, run in enumerate(runs)}


def _panels(count: int, width: float) -> tuple[Figure, list[Axes]]:
    columns = max(1, min(count, _MAX_COLUMNS))
    lines = max(1, -(-count // columns))
    # Not pyplot: it would look for a screen.
    figure = Figure(figsize=(max(6.4, width * columns), 3.4 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flatten())
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels


class _Scale:
    """The horizontal axis of some runs: tokens if all of them logged them, else steps."""

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        most = max((max(run.tokens_by_step.values(), default=0.0) for run in runs), default=0.0)
        self._in_tokens = all(run.tokens_by_step for run in runs)
        self._unit, name = (1e6, "millions") if most >= _MANY else (1e3, "thousands")
        self.label = f"tokens trained on, {name}" if self._in_tokens else "steps"

    def places(self, run: TrainingRun, curve: Curve) -> list[float]:
        """Return where the points of a curve lie; between logged steps tokens are interpolated."""
        if not self._in_tokens:
            return [float(step) for step in curve]
        known = run.tokens_by_step
        tokens = np.interp(list(curve), list(known), list(known.values()))
        return [float(place) / self._unit for place in tokens]


def _draw_source(panel: Axes, scale: _Scale, run: TrainingRun, source: str, colour: str) -> None:
    curve = run.curves.get(f"val/{source}/nll", {})
    ends = run.validation("nll").get(source, (None, None))
    if curve:
        x, y = scale.places(run, curve), list(curve.values())
        panel.plot(x, y, color=colour, linewidth=1.4, label=run.name)
    last = run.actual.steps or max(curve, default=0)
    for step, value, face in ((0, ends[0], "white"), (last, ends[1], colour)):
        if value is not None:
            x = scale.places(run, {step: value})
            panel.plot(x, [value], "o", markersize=5, color=colour, markerfacecolor=face)


def _finish(panel: Axes) -> None:
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize="small", frameon=False)
    panel.set_xlim(left=0)
    panel.grid(alpha=0.3)
