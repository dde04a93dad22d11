"""Trade-offs in a report: the domain against general text."""

from collections.abc import Sequence

from biomamba.evaluation.comparison import Models, aligned
from biomamba.metrics.combined import Combined, mean_over
from biomamba.metrics.grouped import interval_of
from biomamba.metrics.interval import Bootstrap, Interval
from biomamba.metrics.measure import Measure
from biomamba.metrics.seeds import interval_over_seeds
from biomamba.reporting.report_scores import ReportScores, subjects_of
from biomamba.reporting.score_sections import NO_SCORES
from biomamba.reporting.section import Part, Picture, Section, Table
from biomamba.reporting.tables import interval_cell
from biomamba.reporting.tradeoff_plots import Place, dominates, frontier_plot, non_dominated

BITS = "bits_per_byte"


def frontier_section(scores: ReportScores, domain: str, bootstrap: Bootstrap) -> Section:
    """Return the domain against the mean of the other sources, over all models."""
    title = "Domain against general text"
    if not scores.models:
        return Section(title, [NO_SCORES])
    known = subjects_of(scores.models)
    if domain not in known or len(known) < 2:
        return Section(
            title,
            [
                f"This section needs models scored on {domain} and on at least one other source; "
                f"the sources are {', '.join(known)}. domain=... names another one."
            ],
        )
    panel, general = general_panel(scores, domain)
    if not general:
        return Section(title, [f"No source beside {domain} was scored for the same models."])
    places = places_of(panel, domain, general, bootstrap)
    best = [place.model for place in non_dominated(places)]
    told = " and ".join(general)
    table = _table(places, best, domain, told, scores.files)
    picture = Picture(
        name="frontier_plot",
        caption=f"Bits per byte on {domain} against the plain mean over {told}: the lower left is "
        "better. Filled and joined: not dominated by another model. Bars are intervals, small "
        "dots single seeds.",
        png=frontier_plot(places, domain, told),
        files=scores.files,
    )
    return Section(title, [picture, table, *_note(places, best)])


def _table(
    places: Sequence[Place], best: Sequence[str], domain: str, told: str, files: Sequence[str]
) -> Table:
    """Return all places; columns that say nothing are left out."""
    rows = [
        [
            p.model,
            f"{len(p.seeds)}",
            _cell(p.domain),
            _cell(p.general),
            "yes" if p.model in best else "no",
            _overlap(p, places),
        ]
        for p in places
    ]
    shown = [0, *([1] if any(len(p.seeds) > 1 for p in places) else []), 2, 3, 4]
    shown += [5] if any(row[5] != "-" for row in rows) else []
    header = ["model", "seeds", f"bits/byte {domain}", f"mean bits/byte of {told}"]
    header += ["not dominated", "note"]
    return Table(
        name="frontier",
        caption="A model is not dominated if no other one is lower in one figure and not higher in "
        "the other, by means. Intervals are over documents, and over seeds where there are "
        "several; where they overlap, a rank may be chance: paired tests stand above.",
        header=[header[index] for index in shown],
        rows=[[row[index] for index in shown] for row in rows],
        files=files,
    )


def general_panel(scores: ReportScores, domain: str) -> tuple[Models, list[str]]:
    """Return the most models that share the domain and other sources, and the other sources.

    None are there if no other source was scored for the models of the domain.
    """
    panels = [panel for panel in scores.panels if domain in subjects_of(panel)]
    panel = max(panels, key=lambda p: (len(subjects_of(p)) > 1, len(p)), default={})
    return panel, [subject for subject in subjects_of(panel) if subject != domain]


def combined_seeds(models: Models, subjects: Sequence[str]) -> dict[str, list[Combined]]:
    """Return the plain mean over sources of every seed of every model, all items in one order."""
    found = {subject: aligned(subject, models) for subject in subjects}
    return {
        name: [
            mean_over(
                [found[subject][name][index].measure(BITS) for subject in subjects],
                [found[subject][name][index].units for subject in subjects],
            )
            for index in range(len(seeds))
        ]
        for name, seeds in models.items()
    }


def places_of(
    models: Models, domain: str, general: Sequence[str], bootstrap: Bootstrap
) -> list[Place]:
    """Return every model with its intervals on both axes, and its single seeds."""
    here, there = combined_seeds(models, [domain]), combined_seeds(models, general)
    return [
        Place(
            name,
            _interval(here[name], bootstrap),
            _interval(there[name], bootstrap),
            [
                (one.measure.value, other.measure.value)
                for one, other in zip(here[name], there[name], strict=True)
            ],
        )
        for name in models
    ]


def _interval(seeds: Sequence[Combined], bootstrap: Bootstrap) -> Interval:
    measures: list[Measure] = [seed.measure for seed in seeds]
    if len(measures) == 1:
        return interval_of(measures[0], seeds[0].units, bootstrap)[0]
    return interval_over_seeds(measures, seeds[0].units, bootstrap)[0]


def _overlap(place: Place, places: Sequence[Place]) -> str:
    """Say of which models, that are better by their means, the intervals overlap on both axes."""
    near = [
        other.model
        for other in places
        if dominates(other, place)
        and _do_overlap(place.domain, other.domain)
        and _do_overlap(place.general, other.general)
    ]
    return f"overlaps {', '.join(near)}" if near else "-"


def _do_overlap(one: Interval, other: Interval) -> bool:
    return one.low <= other.high and other.low <= one.high


def _note(places: Sequence[Place], best: Sequence[str]) -> list[Part]:
    unsure = [p.model for p in places if p.model not in best and _overlap(p, places) != "-"]
    if not unsure:
        return []
    return [
        f"Dominated by their means only, with intervals that overlap on both axes: "
        f"{', '.join(unsure)}. Whether they are truly worse is not told here."
    ]


def _cell(found: Interval) -> str:
    return interval_cell(found, ".3f")
