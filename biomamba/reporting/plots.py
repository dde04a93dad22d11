"""Plots of a report: comparisons, learning curves, ablations, trade-offs."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from biomamba.evaluation.comparison import ComparisonRecord
from biomamba.evaluation.records import ResultRecord
from biomamba.evaluation.scaling import ScalingFit
from biomamba.metrics.measure import Interval
from biomamba.reporting.groups import RunGroup, mean_of
from biomamba.reporting.inputs import Curve, TrainingRun


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
    """Return the geometric middle of a bucket; the first one starts at 0."""
    assert record.first_position is not None
    assert record.end_position is not None
    return float((max(record.first_position, 1) * record.end_position) ** 0.5)


# -------------------------------------------------------------------------------------------------
# Comparisons of models as pictures.
# -------------------------------------------------------------------------------------------------

# Colors that the color-blind tell apart (Okabe and Ito).
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MAX_COLUMNS = 3


def intervals_plot(records: Sequence[ComparisonRecord]) -> bytes:
    """Draw every figure of every model as a dot with its interval, as a PNG.

    A row of panels per metric, a line per source or task: on the left the figures, on the right how
    they differ from the model that they are compared with, on the same items.
    """
    metrics = list(dict.fromkeys(record.metric for record in records))
    models = list(dict.fromkeys(record.model for record in records))
    sizes = [len({r.subject for r in records if r.metric == metric}) for metric in metrics]
    heights = [0.8 + 0.22 * size * (len(models) + 1) for size in sizes]
    # Not pyplot: it would look for a screen.
    figure = Figure(figsize=(9, sum(heights) + 0.4), layout="constrained")
    rows = figure.subplots(len(metrics), 2, squeeze=False, height_ratios=heights)
    for (left, right), metric in zip(rows, metrics, strict=True):
        mine = [record for record in records if record.metric == metric]
        subjects = list(dict.fromkeys(record.subject for record in mine))
        _intervals_panel(left, [_Dot(r, r.value, r.low, r.high) for r in mine], subjects, models)
        differences = [
            _Dot(r, r.difference, r.difference_low or 0.0, r.difference_high or 0.0)
            for r in mine
            if r.difference is not None
        ]
        _intervals_panel(right, differences, subjects, models)
        better = {True: ", higher is better", False: ", lower is better", None: ""}
        left.set_xlabel(metric + better[mine[0].higher_is_better])
        against = next((r.against for r in mine if r.against), "")
        right.set_xlabel(f"{metric} minus that of {against}")
        right.axvline(0, color=_COLOURS[0], linewidth=1)
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(models), frameon=False)
    return _png(figure)


@dataclass(frozen=True)
class _Dot:
    """A value with bounds, and the record that it is of."""

    record: ComparisonRecord
    value: float
    low: float
    high: float


def _intervals_panel(
    panel: Axes, dots: Sequence[_Dot], subjects: list[str], models: list[str]
) -> None:
    for number, model in enumerate(models):
        mine = [dot for dot in dots if dot.record.model == model]
        offset = (number - (len(models) - 1) / 2) * 0.8 / len(models)
        panel.errorbar(
            [dot.value for dot in mine],
            [subjects.index(dot.record.subject) + offset for dot in mine],
            xerr=[
                [_reach(dot.value, dot.low) for dot in mine],
                [_reach(dot.high, dot.value) for dot in mine],
            ],
            fmt="o",
            markersize=4,
            capsize=2,
            linewidth=1.2,
            color=_COLOURS[number % len(_COLOURS)],
            label=model,
        )
    panel.set_yticks(range(len(subjects)), subjects)
    panel.set_ylim(len(subjects) - 0.5, -0.5)
    panel.grid(axis="x", alpha=0.3)


def _reach(upper: float, lower: float) -> float:
    """Return the length of one arm; none where a bound is not known."""
    return max(0.0, upper - lower) if math.isfinite(upper - lower) else 0.0


def changes_plot(changes: Mapping[str, Mapping[str, NDArray[np.float64]]], reference: str) -> bytes:
    """Draw how bits per byte of the single documents differ from the reference, as a PNG.

    changes maps a source to models to the differences (documents,), model minus reference; those
    that are not numbers are left out. A panel per source: the share of the documents that change by
    at most so much, of which those left of the line got better.
    """
    columns = min(len(changes), _MAX_COLUMNS)
    lines = -(-len(changes) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, (source, models) in zip(panels, changes.items(), strict=False):
        # The reference has the first color in every picture.
        for colour, (model, values) in zip(
            _COLOURS[1:] * len(models), models.items(), strict=False
        ):
            ordered = np.sort(values[np.isfinite(values)])
            share = np.arange(len(ordered) + 1) / max(1, len(ordered))
            better = float((ordered < 0).mean()) if len(ordered) else 0.0
            label = f"{model}: {better:.0%} of {len(ordered):,} lower"
            places = np.concatenate([ordered[:1], ordered])
            panel.step(places, share, where="post", color=colour, linewidth=1.5, label=label)
        panel.axvline(0, color="0.5", linewidth=1)
        panel.set(title=source, ylim=(0, 1), ylabel="share of the documents")
        panel.set_xlabel(f"bits per byte minus those of {reference}")
        panel.legend(fontsize="small", loc="best")
        panel.locator_params(axis="x", nbins=5)
        panel.grid(alpha=0.3)
    for panel in panels[len(changes) :]:
        panel.set_axis_off()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


# -------------------------------------------------------------------------------------------------
# Learning curves as pictures, several runs in one.
# -------------------------------------------------------------------------------------------------

# Colors that the color-blind tell apart (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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
    """Return a color for each recipe, the same in all panels."""
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
        """Return where the points of a curve are; between logged steps tokens are interpolated."""
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


# -------------------------------------------------------------------------------------------------
# Recipes beside each other as pictures: figures with intervals, and the seeds as small dots.
# -------------------------------------------------------------------------------------------------

# Colors that the color-blind tell apart (Okabe and Ito).
_PLAIN, _TOLD, _SEED = "0.35", "#D55E00", "#0072B2"
_SIGNIFICANT = 0.05


def recipes_plot(records: Sequence[ComparisonRecord], reference: str) -> bytes:
    """Draw one figure of every model, a panel per subject and a line per model, as a PNG.

    Large dots are means with their intervals, small ones the seeds. The line is the reference; what
    differs from it by p (Holm) below 0.05 is filled in the second color.
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


# -------------------------------------------------------------------------------------------------
# Trade-offs as pictures: domain against general text, and loss against tokens.
# -------------------------------------------------------------------------------------------------

_DOMAIN_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MILLION = 1e6
_NAMED = 6  # models whose names find room in the picture
_ROOM = 0.02  # of the span of the means: what a number needs


@dataclass(frozen=True)
class Place:
    """A model with its bits per byte on the domain and on general text, and those of its seeds."""

    model: str
    domain: Interval
    general: Interval
    seeds: Sequence[tuple[float, float]]


def dominates(one: Place, other: Place) -> bool:
    """Whether one is lower in one figure, and not higher in the other, by means."""
    mine, theirs = _means(one), _means(other)
    return mine[0] <= theirs[0] and mine[1] <= theirs[1] and mine != theirs


def non_dominated(places: Sequence[Place]) -> list[Place]:
    """Return those that no other one beats: lower in one figure, and not higher in the other."""
    return [place for place in places if not any(dominates(other, place) for other in places)]


def frontier_plot(places: Sequence[Place], domain: str, general: str) -> bytes:
    """Draw every model as a dot with its intervals, the front filled and joined, as a PNG.

    Small dots are single seeds. More than a handful of models are numbered, with a list beside.
    """
    best = non_dominated(places)
    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    panel = figure.subplots()
    line = sorted((_means(place) for place in best), key=lambda mean: (mean[0], -mean[1]))
    colour = _DOMAIN_COLORS[0]
    panel.step([x for x, _ in line], [y for _, y in line], where="post", color=colour, alpha=0.6)
    for place in places:
        is_best = place in best
        mine = colour if is_best else "0.4"
        x, y = _means(place)
        panel.errorbar(
            [x],
            [y],
            xerr=[[arm_of(x, place.domain.low)], [arm_of(place.domain.high, x)]],
            yerr=[[arm_of(y, place.general.low)], [arm_of(place.general.high, y)]],
            fmt="o",
            markersize=6,
            color=mine,
            ecolor=mine,
            elinewidth=0.8,
            markerfacecolor=mine if is_best else "white",
            zorder=3,
        )
        if len(place.seeds) > 1:
            panel.plot(*zip(*place.seeds, strict=True), "o", markersize=2.5, color=mine, alpha=0.6)
    _name_places(figure, panel, places)
    panel.set(xlabel=f"bits per byte, {domain}", ylabel=f"bits per byte, mean of {general}")
    panel.margins(0.12)
    panel.grid(alpha=0.3)
    return _png(figure)


def scaling_plot(fits: Mapping[str, ScalingFit]) -> bytes:
    """Draw the losses of runs over their tokens with the fit of every source, as a PNG."""
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    panel = figure.subplots()
    for colour, (name, fit) in zip(_DOMAIN_COLORS * len(fits), fits.items(), strict=False):
        tokens = np.geomspace(fit.tokens[0], fit.tokens[-1], 100)
        panel.plot(fit.tokens / _MILLION, fit.losses, "o", color=colour, label=name)
        panel.plot(tokens / _MILLION, fit.curve.at(tokens), color=colour, linewidth=1.3)
    panel.set_xscale("log")
    sizes = sorted({size / _MILLION for fit in fits.values() for size in fit.tokens})
    panel.set_xticks(sizes, [f"{size:.3g}" for size in sizes])
    panel.minorticks_off()
    panel.set(xlabel="tokens of the run, millions", ylabel="held-out bits per byte")
    panel.legend(fontsize="small", frameon=False)
    panel.grid(alpha=0.3, which="both")
    return _png(figure)


def labels_of(places: Sequence[Place]) -> dict[tuple[float, float], str]:
    """Return the numbers of the places, those that would print over each other as one label."""
    spans = [max(values) - min(values) for values in zip(*map(_means, places), strict=True)]
    found: dict[tuple[float, float], list[str]] = {}
    for number, place in enumerate(places, start=1):
        here = _means(place)
        near = (
            there
            for there in found
            if all(
                abs(a - b) <= _ROOM * span for a, b, span in zip(here, there, spans, strict=True)
            )
        )
        found.setdefault(next(near, here), []).append(str(number))
    return {there: ", ".join(numbers) for there, numbers in found.items()}


def _name_places(figure: Figure, panel: Axes, places: Sequence[Place]) -> None:
    if len(places) <= _NAMED:
        labels = {_means(place): place.model for place in places}
    else:
        labels = labels_of(places)
        names = "\n".join(f"{number} {place.model}" for number, place in enumerate(places, start=1))
        figure.set_size_inches(9.6, 5.2)
        panel.text(1.03, 1.0, names, transform=panel.transAxes, va="top", fontsize="small")
    for point, label in labels.items():
        panel.annotate(label, point, textcoords="offset points", xytext=(6, 6), fontsize="small")


def _means(place: Place) -> tuple[float, float]:
    return place.domain.value, place.general.value
