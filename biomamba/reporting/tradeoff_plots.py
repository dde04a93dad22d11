"""Trade-offs as pictures: domain against general text, and loss against tokens."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from biomamba.evaluation.scaling import ScalingFit

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MILLION = 1e6


@dataclass(frozen=True)
class Place:
    """A model with its bits per byte on the domain and on general text."""

    model: str
    domain: float
    general: float


def non_dominated(places: Sequence[Place]) -> list[Place]:
    """Return those that no other one beats: lower in one figure, and not higher in the other."""
    return [place for place in places if not any(_dominates(other, place) for other in places)]


def frontier_plot(places: Sequence[Place], domain: str, general: str) -> bytes:
    """Draw every model as a dot, those that are not dominated filled and joined, as a PNG."""
    best = non_dominated(places)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel = figure.subplots()
    others = [place for place in places if place not in best]
    line = sorted(best, key=lambda place: (place.domain, -place.general))
    colour = _COLOURS[0]
    panel.step([p.domain for p in line], [p.general for p in line], where="post", color=colour)
    panel.plot(
        [p.domain for p in line],
        [p.general for p in line],
        "o",
        color=colour,
        label="not dominated",
    )
    if others:
        x, y = [p.domain for p in others], [p.general for p in others]
        panel.plot(x, y, "o", color="0.4", markerfacecolor="white", label="dominated")
    for place in places:
        panel.annotate(
            place.model,
            (place.domain, place.general),
            textcoords="offset points",
            xytext=(6, 6),
            fontsize="small",
        )
    panel.set(xlabel=f"bits per byte, {domain}", ylabel=f"bits per byte, mean of {general}")
    panel.margins(0.2)
    panel.legend(fontsize="small", frameon=False)
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
    panel.set(xlabel="tokens of the run, millions", ylabel="held-out bits per byte")
    panel.legend(fontsize="small", frameon=False)
    panel.grid(alpha=0.3, which="both")
    return _png(figure)


def _dominates(one: Place, other: Place) -> bool:
    is_no_worse = one.domain <= other.domain and one.general <= other.general
    return is_no_worse and (one.domain, one.general) != (other.domain, other.general)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
