"""Report sections on held-out documents: domains, forgetting, trade-offs, scaling."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biomamba.config.run_settings import recipe_but_tokens
from biomamba.evaluation.comparison import (
    ALL,
    ComparisonSettings,
    Models,
    aligned,
    compare,
    comparison_csv,
    document_changes,
)
from biomamba.evaluation.scaling import MIN_RUNS, ScalingFit, fit_scaling
from biomamba.metrics.measure import Bootstrap, Combined, Interval, Measure, interval_of, mean_over
from biomamba.metrics.significance import interval_over_seeds
from biomamba.reporting.plots import (
    Place,
    changes_plot,
    dominates,
    frontier_plot,
    intervals_plot,
    non_dominated,
    scaling_plot,
)
from biomamba.reporting.scores import ReportScores, restricted, subjects_of
from biomamba.reporting.section import Part, Picture, Section, Table, csv_of
from biomamba.reporting.tables import comparison_cells, comparison_explanation, interval_cell

NO_SCORES = (
    "No held-out documents were scored; an evaluation with sources (python -m biomamba.evaluate "
    "checkpoint=... baseline=...) fills this section."
)
NO_PAIR = "One model only: a second one, as the baseline of its evaluation, fills this section."


def perplexity_section(scores: ReportScores, settings: ComparisonSettings) -> Section:
    """Return perplexity and bits per byte of every model on every source."""
    title = "Perplexity and bits per byte"
    if not scores.models:
        return Section(title, [NO_SCORES])
    parts: list[Part] = []
    for number, panel in enumerate(scores.panels, start=1):
        found = compare(panel, _with_reference(settings, panel))
        if not found.records:
            continue
        name = "scores" if number == 1 else f"scores_{number}"
        header, rows = comparison_cells(found.records)
        parts.append(
            Table(
                name=name,
                caption=comparison_explanation(found.records),
                header=header,
                rows=rows,
                files=scores.files,
                values=comparison_csv(found.records),
            )
        )
        caption = "The figures of the table, and how they differ on the same documents."
        png = intervals_plot(found.records)
        parts.append(
            Picture(name=f"{name}_intervals", caption=caption, png=png, files=scores.files)
        )
        parts += [f"{note}." for note in found.notes]
    return Section(title, [*parts, *scores.notes])


def forgetting_section(
    scores: ReportScores, settings: ComparisonSettings, num_listed: int
) -> Section:
    """Return how single documents changed, the worst and the best by their keys."""
    title = "Forgetting ledger"
    if not scores.models:
        return Section(title, [NO_SCORES])
    parts: list[Part] = []
    for number, panel in enumerate(scores.panels, start=1):
        if len(panel) > 1:
            name = "changes" if number == 1 else f"changes_{number}"
            reference = _with_reference(settings, panel).reference or next(iter(panel))
            parts += _changes(name, panel, reference, scores.files, num_listed)
    return Section(title, parts or [NO_PAIR])


def _changes(
    name: str, models: Models, reference: str, files: Sequence[str], num_listed: int
) -> list[Part]:
    changes = document_changes(models, reference)
    first = next(iter(models.values()))[0].scored
    # A document is named by the hash of its id; no text is kept of it.
    keys = {source: [item.split(":")[0] for item in first[source].items] for source in changes}
    lines = [
        (source, model, _finite(keys[source], values))
        for source, found in changes.items()
        for model, values in found.items()
    ]
    ledger = Table(
        name=name,
        caption=f"Bits per byte of single documents minus those of {reference}: positive is worse. "
        "Quantiles are over documents; each document counts once, however long it is.",
        header=["source", "model", "documents", "got worse", "mean", "5 %", "median", "95 %"],
        rows=[[source, model, *_spread(found[1])] for source, model, found in lines],
        files=files,
        values=csv_of(
            ["source", "model", "document", "bits_per_byte_change"],
            [
                [s, m, k, repr(float(v))]
                for s, m, (names, v) in lines
                for k, v in zip(names, v, strict=True)
            ],
        ),
    )
    picture = Picture(
        name=f"{name}_distribution",
        caption="Share of documents that change by at most so much; left of the line is better.",
        png=changes_plot(changes, reference),
        files=files,
    )
    extremes = Table(
        name=f"{name}_extremes",
        caption=f"The {num_listed} documents of each source with the highest change (worst) and "
        "with the lowest one (best), by key.",
        header=["source", "model", "worst", "change", "best", "change of best"],
        rows=[row for s, m, found in lines for row in _extremes(s, m, *found, num_listed)],
        files=files,
    )
    return [ledger, picture, extremes]


def _finite(
    keys: Sequence[str], values: NDArray[np.float64]
) -> tuple[list[str], NDArray[np.float64]]:
    """Leave out documents without text."""
    is_known = np.isfinite(values)
    return [key for key, known in zip(keys, is_known, strict=True) if known], values[is_known]


def _spread(values: NDArray[np.float64]) -> list[str]:
    if not len(values):
        return ["0", *["-"] * 5]
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    numbers = [f"{number:+.3f}" for number in (values.mean(), low, middle, high)]
    return [f"{len(values):,}", f"{(values > 0).mean():.1%}", *numbers]


def _extremes(
    source: str, model: str, keys: Sequence[str], values: NDArray[np.float64], num_listed: int
) -> list[list[str]]:
    best = np.argsort(values, kind="stable")[:num_listed]
    worst = np.argsort(-values, kind="stable")[:num_listed]
    return [
        [source, model, keys[high], f"{values[high]:+.3f}", keys[low], f"{values[low]:+.3f}"]
        for high, low in zip(worst, best, strict=True)
    ]


def _with_reference(settings: ComparisonSettings, models: Models) -> ComparisonSettings:
    """Return the settings for models among which the wanted reference may be missing."""
    reference = settings.reference if settings.reference in models else None
    return ComparisonSettings(reference, [ALL], settings.power, settings.bootstrap)


# -------------------------------------------------------------------------------------------------
# Trade-offs in a report: the domain against general text.
# -------------------------------------------------------------------------------------------------

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
        "several; where they overlap, a rank may be chance: paired tests are above.",
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
            _combined_interval(here[name], bootstrap),
            _combined_interval(there[name], bootstrap),
            [
                (one.measure.value, other.measure.value)
                for one, other in zip(here[name], there[name], strict=True)
            ],
        )
        for name in models
    ]


def _combined_interval(seeds: Sequence[Combined], bootstrap: Bootstrap) -> Interval:
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
        f"{', '.join(unsure)}. This table does not say whether they are worse."
    ]


def _cell(found: Interval) -> str:
    return interval_cell(found, ".3f")


# -------------------------------------------------------------------------------------------------
# Loss against tokens in a report: runs of one recipe that differ in tokens and seeds only.
# -------------------------------------------------------------------------------------------------

_BITS = "bits_per_byte"


def scaling_section(scores: ReportScores, bootstrap: Bootstrap) -> Section:
    """Return the fit of loss over tokens, if enough recipes differ in tokens only."""
    title = "Scaling with tokens"
    ladder = _ladder(scores)
    if len(set(ladder.values())) < MIN_RUNS:
        given = f"{len(ladder)} at most here" if ladder else "none here"
        return Section(
            title,
            [
                f"L(D) = E + B / D**beta is fitted where at least {MIN_RUNS} training runs differ "
                f"in max_tokens only ({given}), all of them in runs and evaluated on the same "
                "held-out documents; each may have several seeds."
            ],
        )
    fits = _fits(scores, ladder, bootstrap)
    if not fits:
        return Section(title, ["The runs that differ in max_tokens only share no source."])
    groups = [scores.groups[name] for name in ladder]
    files = [*scores.files, *(str(run.folder) for group in groups for run in group.runs)]
    several = any(len(scores.models[name]) > 1 for name in ladder)
    over = "documents and seeds" if several else "documents: they know nothing of other seeds"
    table = Table(
        name="scaling",
        caption=f"L(D) = E + B / D**beta by least squares, D in tokens, L in held-out bits per "
        f"byte, over {_counted(scores, ladder)}. Intervals ({bootstrap.level:.0%}) are over "
        f"{bootstrap.num_resamples:,} resamples of {over}; they hold within the range of the runs "
        "only. Per doubling: the mean change of L if D doubles, from a straight line over log D.",
        header=["source", "per doubling", "E", "B", "beta", "residual", "note"],
        rows=[_fit_row(name, fit) for name, fit in fits.items()],
        files=files,
    )
    caption = "Held-out bits per byte over tokens, a dot per run, with the fit within the range."
    picture = Picture(name="scaling_plot", caption=caption, png=scaling_plot(fits), files=files)
    return Section(title, [picture, table, *_words(fits)])


def _fits(
    scores: ReportScores, ladder: Mapping[str, float], bootstrap: Bootstrap
) -> dict[str, ScalingFit]:
    """Return a fit for every source that all recipes of the ladder were scored on."""
    names = list(ladder)
    known = {subject for panel in scores.panels for subject in subjects_of(panel)}
    fits = {}
    seeds = [seed for name in names for seed in scores.models[name]]
    for subject in subjects_of(scores.models):
        if subject not in known or not all(subject in seed.scored for seed in seeds):
            continue
        found = aligned(subject, restricted(scores.models, names, [subject]))
        measures = [[seed.measure(_BITS) for seed in found[name]] for name in names]
        units = next(iter(found.values()))[0].units
        fits[subject] = fit_scaling(list(ladder.values()), measures, units, bootstrap)
    return fits


def _ladder(scores: ReportScores) -> dict[str, float]:
    """Return the tokens of the most models whose runs differ in tokens only, by model."""
    ladders: dict[str, dict[str, float]] = {}
    for name, group in scores.groups.items():
        path = scores.paths.get(scores.models[name][0].checkpoint)
        recipe = recipe_but_tokens(Path(path)) if path else None
        if recipe is not None and group.num_tokens:
            ladders.setdefault(recipe, {})[name] = group.num_tokens
    return max(ladders.values(), key=lambda ladder: len(set(ladder.values())), default={})


def _counted(scores: ReportScores, ladder: Mapping[str, float]) -> str:
    num_runs = sum(len(scores.models[name]) for name in ladder)
    sizes = ", ".join(sorted(ladder, key=lambda name: ladder[name]))
    return f"{num_runs} runs of {len(ladder)} sizes ({sizes})"


def _fit_row(name: str, fit: ScalingFit) -> list[str]:
    note = "-" if fit.is_told else "E and B are not distinguished"
    if fit.curve.is_bound:
        note = "at the end of a range: not distinguished by these losses"
    parameters = [_interval_text(fit.floor, ".3f"), _interval_text(fit.coefficient, ".3g")]
    return [
        name,
        _interval_text(fit.per_doubling, "+.3f"),
        *parameters,
        _interval_text(fit.exponent, ".3f"),
        f"{fit.residual:.4f}",
        note,
    ]


def _words(fits: Mapping[str, ScalingFit]) -> list[Part]:
    """Say what the fits do not tell."""
    odd = [name for name, fit in fits.items() if not fit.is_told]
    if not odd:
        return []
    num_sizes = len(set(next(iter(fits.values())).tokens.tolist()))
    slopes = [f"{fits[name].per_doubling.value:+.3f} on {name}" for name in odd]
    return [
        f"{num_sizes} sizes cannot separate E from B on {', '.join(odd)}: a low floor that is "
        "reached slowly and a high one that is reached fast pass through the same losses, and the "
        "exponent or the floor runs to the end of its range. Read there what the losses determine, "
        f"the change per doubling of tokens within the range ({', '.join(slopes)} bits per byte), "
        "and neither E nor what the curve says of more tokens. A range of tokens ten times as wide "
        "would help more than more seeds."
    ]


def _interval_text(found: Interval, style: str) -> str:
    return interval_cell(found, style)
