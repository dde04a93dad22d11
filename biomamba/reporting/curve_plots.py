"""Learning curves as pictures, several runs in one."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biomamba.reporting.run_groups import RunGroup, mean_of
from biomamba.reporting.training_run import Curve, TrainingRun

# Colours that the colour-blind tell apart (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MAX_COLUMNS = 3
_MANY = 5e5  # tokens, from which on they are counted in millions


def loss_plot(recipes: Sequence[RunGroup]) -> bytes:
    """Draw the training loss of every recipe that logged it, as a PNG.

    Recipes on the same sources share a panel: losses on other texts are not comparable.
    """
    colours = _colours(recipes)
    groups: dict[tuple[str, ...], list[RunGroup]] = {}
    for recipe in recipes:
        if any(run.curves.get("train/loss") for run in recipe.runs):
            sources = tuple(sorted(recipe.runs[0].record.get("sources", {})))
            groups.setdefault(sources, []).append(recipe)
    figure, panels = _panels(len(groups), width=5.2)
    for panel, (sources, group) in zip(panels, groups.items(), strict=False):
        scale = _Scale(group)
        for recipe in group:
            _draw_band(panel, scale, recipe, "train/loss", colours[recipe.name])
        panel.set(xlabel=scale.label, ylabel="training loss, nats per token")
        panel.set_title(", ".join(sources), fontsize="medium")
        _finish(panel)
    return png_of(figure)


def validation_plot(recipes: Sequence[RunGroup]) -> bytes:
    """Draw the validation nll of every source, a panel each, as a PNG.

    What run.json has from before and after the run is a hollow and a filled dot.
    """
    colours = _colours(recipes)
    sources = validation_sources(recipes)
    figure, panels = _panels(len(sources), width=3.6)
    for panel, source in zip(panels, sources, strict=False):
        here = [recipe for recipe in recipes if source in validation_sources([recipe])]
        scale = _Scale(here)
        for recipe in here:
            _draw_band(panel, scale, recipe, f"val/{source}/nll", colours[recipe.name])
            _draw_ends(panel, scale, recipe, source, colours[recipe.name])
        panel.set(title=source, xlabel=scale.label, ylabel="nll, nats per token")
        _finish(panel)
    return png_of(figure)


def validation_sources(recipes: Sequence[RunGroup]) -> list[str]:
    """Return the sources that any run was validated on."""
    runs = [run for recipe in recipes for run in recipe.runs]
    logged = [
        tag.removeprefix("val/").removesuffix("/nll")
        for run in runs
        for tag in run.curves
        if tag.startswith("val/") and tag.endswith("/nll")
    ]
    return list(dict.fromkeys([*logged, *(name for r in runs for name in r.validation("nll"))]))


def band_of(curves: Sequence[Curve]) -> tuple[Curve, Curve, Curve]:
    """Return mean, lowest and highest of several curves where all of them have a point."""
    steps = [step for step in curves[0] if all(step in curve for curve in curves)]
    found = {step: [curve[step] for curve in curves] for step in steps}
    return (
        {step: sum(values) / len(values) for step, values in found.items()},
        {step: min(values) for step, values in found.items()},
        {step: max(values) for step, values in found.items()},
    )


def png_of(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _colours(recipes: Sequence[RunGroup]) -> dict[str, str]:
    """Return a colour for each recipe, the same in all panels."""
    return {recipe.name: COLOURS[n % len(COLOURS)] for n, recipe in enumerate(recipes)}


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

    def __init__(self, recipes: Sequence[RunGroup]) -> None:
        runs = [run for recipe in recipes for run in recipe.runs]
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


def _draw_band(panel: Axes, scale: _Scale, recipe: RunGroup, tag: str, colour: str) -> None:
    """Draw the mean over the seeds that logged a curve, and the band that holds all of them."""
    runs = [run for run in recipe.runs if run.curves.get(tag)]
    if not runs:
        return
    mean, low, high = band_of([run.curves[tag] for run in runs])
    x = scale.places(runs[0], mean)
    panel.plot(x, list(mean.values()), color=colour, linewidth=1.4, label=recipe.name)
    if len(runs) > 1:
        panel.fill_between(
            x, list(low.values()), list(high.values()), color=colour, alpha=0.2, linewidth=0
        )


def _draw_ends(panel: Axes, scale: _Scale, recipe: RunGroup, source: str, colour: str) -> None:
    """Draw what was measured before and after the run: the mean over seeds."""
    told = [run.validation("nll").get(source, (None, None)) for run in recipe.runs]
    curve = recipe.runs[0].curves.get(f"val/{source}/nll", {})
    last = recipe.runs[0].actual.steps or max(curve, default=0)
    ends = (mean_of([before for before, _ in told]), mean_of([after for _, after in told]))
    for step, value, face in ((0, ends[0], "white"), (last, ends[1], colour)):
        if value is not None:
            x = scale.places(recipe.runs[0], {step: value})
            panel.plot(x, [value], "o", markersize=5, color=colour, markerfacecolor=face)


def _finish(panel: Axes) -> None:
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize="small", frameon=False)
    panel.set_xlim(left=0)
    panel.grid(alpha=0.3)
