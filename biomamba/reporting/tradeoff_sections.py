"""Trade-offs in a report: domain against general text, and loss against tokens."""

from collections.abc import Sequence
from pathlib import Path

from biomamba.config.recipe import recipe_but_tokens
from biomamba.evaluation.comparison import Models, aligned
from biomamba.evaluation.scaling import MIN_RUNS, ScalingFit, fit_scaling
from biomamba.metrics.interval import Bootstrap, Interval
from biomamba.reporting.report_scores import ReportScores, restricted, subjects_of
from biomamba.reporting.score_sections import NO_SCORES
from biomamba.reporting.section import Picture, Section, Table
from biomamba.reporting.tradeoff_plots import Place, frontier_plot, non_dominated, scaling_plot
from biomamba.reporting.training_run import TrainingRun

_BITS = "bits_per_byte"


def frontier_section(scores: ReportScores, domain: str) -> Section:
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
    panels = [p for p in scores.panels if domain in subjects_of(p)]
    panel = max(panels, key=lambda p: (len(subjects_of(p)) > 1, len(p)), default={})
    general = [subject for subject in subjects_of(panel) if subject != domain]
    if not general:
        return Section(title, [f"No source beside {domain} was scored for the same models."])
    places = [_place(name, panel, domain, general) for name in panel]
    best = [place.model for place in non_dominated(places)]
    told = " and ".join(general)
    rows = [
        [p.model, f"{p.domain:.3f}", f"{p.general:.3f}", "yes" if p.model in best else "no"]
        for p in places
    ]
    table = Table(
        name="frontier",
        caption="A model is not dominated if no other one is lower in one figure and not higher "
        "in the other. Intervals and tests of the figures stand above.",
        header=["model", f"bits/byte {domain}", f"mean bits/byte of {told}", "not dominated"],
        rows=rows,
        files=scores.files,
    )
    picture = Picture(
        name="frontier_plot",
        caption=f"Bits per byte on {domain} against the plain mean over {told}: the lower left is "
        "better. Filled and joined: not dominated by another model.",
        png=frontier_plot(places, domain, told),
        files=scores.files,
    )
    return Section(title, [picture, table])


def scaling_section(
    scores: ReportScores, runs: Sequence[TrainingRun], bootstrap: Bootstrap
) -> Section:
    """Return the fit of loss over tokens, if enough runs differ in tokens only."""
    title = "Scaling with tokens"
    ladder = _ladder(scores, runs)
    if len(set(ladder.values())) < MIN_RUNS:
        given = f"{len(ladder)} at most here" if ladder else "none here"
        return Section(
            title,
            [
                f"L(D) = E + B / D**beta is fitted where at least {MIN_RUNS} training runs differ "
                f"in max_tokens only ({given}), all of them in runs and evaluated on the same "
                "held-out documents."
            ],
        )
    fits: dict[str, ScalingFit] = {}
    for subject in subjects_of(restricted_to(scores, list(ladder))):
        found = aligned(subject, restricted(scores.models, list(ladder), [subject]))
        measures = [found[name][0].measure(_BITS) for name in ladder]
        units = next(iter(found.values()))[0].units
        fits[subject] = fit_scaling(list(ladder.values()), measures, units, bootstrap)
    if not fits:
        return Section(title, ["The runs that differ in max_tokens only share no source."])
    files = [*scores.files, *(str(run.folder) for run in runs)]
    table = Table(
        name="scaling",
        caption=f"L(D) = E + B / D**beta by least squares, D in tokens, L in held-out bits per "
        f"byte, over {len(ladder)} runs ({', '.join(ladder)}). Intervals ({bootstrap.level:.0%}) "
        f"are over {bootstrap.num_resamples:,} resamples of the documents: they know nothing of "
        "other seeds, and nothing of numbers of tokens outside of the range of the runs.",
        header=["source", "E", "B", "beta", "residual", "note"],
        rows=[_fit_row(name, fit) for name, fit in fits.items()],
        files=files,
    )
    caption = "Held-out bits per byte over tokens, with the fit between the smallest and largest."
    picture = Picture(name="scaling_plot", caption=caption, png=scaling_plot(fits), files=files)
    return Section(title, [picture, table])


def restricted_to(scores: ReportScores, names: Sequence[str]) -> Models:
    """Return these models on the sources that can be compared for all of them."""
    for panel in scores.panels:
        if all(name in panel for name in names):
            return {name: panel[name] for name in names}
    return {}


def _place(name: str, models: Models, domain: str, general: Sequence[str]) -> Place:
    def mean(subject: str) -> float:
        values = [seed.scored[subject].measure(_BITS).value for seed in models[name]]
        return sum(values) / len(values)

    return Place(name, mean(domain), sum(map(mean, general)) / len(general))


def _ladder(scores: ReportScores, runs: Sequence[TrainingRun]) -> dict[str, float]:
    """Return the tokens of the most models whose runs differ in tokens only, by model."""
    tokens = {run.folder.resolve(): run.num_tokens for run in runs}
    groups: dict[str, dict[str, float]] = {}
    for name, seeds in scores.models.items():
        path = scores.paths.get(seeds[0].checkpoint)
        if path is None or len(seeds) > 1:
            continue
        found = tokens.get(Path(path).resolve().parent)
        recipe = recipe_but_tokens(Path(path)) if found else None
        if found and recipe is not None:
            groups.setdefault(recipe, {})[name] = found
    return max(groups.values(), key=lambda group: len(set(group.values())), default={})


def _fit_row(name: str, fit: ScalingFit) -> list[str]:
    note = "not told apart by these losses" if fit.curve.is_bound else "-"
    parameters = [_interval(fit.floor, ".3f"), _interval(fit.coefficient, ".3g")]
    return [name, *parameters, _interval(fit.exponent, ".3f"), f"{fit.residual:.4f}", note]


def _interval(found: Interval, style: str) -> str:
    return f"{found.value:{style}} [{found.low:{style}}, {found.high:{style}}]"
