"""Trade-offs as pictures: domain against general text, and loss against tokens."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biomamba.evaluation.scaling import ScalingFit
from biomamba.metrics.interval import Interval
from biomamba.reporting.recipe_plots import arm_of

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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
    colour = _COLOURS[0]
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
    for colour, (name, fit) in zip(_COLOURS * len(fits), fits.items(), strict=False):
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


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
