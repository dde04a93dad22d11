"""Loss against tokens in a report: runs of one recipe that differ in tokens and seeds only."""

from collections.abc import Mapping
from pathlib import Path

from biomamba.config.recipe import recipe_but_tokens
from biomamba.evaluation.comparison import aligned
from biomamba.evaluation.scaling import MIN_RUNS, ScalingFit, fit_scaling
from biomamba.metrics.interval import Bootstrap, Interval
from biomamba.reporting.report_scores import ReportScores, restricted, subjects_of
from biomamba.reporting.section import Part, Picture, Section, Table
from biomamba.reporting.tables import interval_cell
from biomamba.reporting.tradeoff_plots import scaling_plot

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
    note = "-" if fit.is_told else "E and B are not told apart"
    if fit.curve.is_bound:
        note = "at the end of a range: not told apart by these losses"
    parameters = [_interval(fit.floor, ".3f"), _interval(fit.coefficient, ".3g")]
    return [
        name,
        _interval(fit.per_doubling, "+.3f"),
        *parameters,
        _interval(fit.exponent, ".3f"),
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
        f"{num_sizes} sizes do not tell E from B on {', '.join(odd)}: a low floor that is reached "
        "slowly and a high one that is reached fast pass through the same losses, and the exponent "
        "or the floor runs to the end of its range. Read there what the losses do tell, the change "
        f"per doubling of tokens within the range ({', '.join(slopes)} bits per byte), and neither "
        "E nor what the curve says of more tokens. A range of tokens ten times as wide would help "
        "more than more seeds."
    ]


def _interval(found: Interval, style: str) -> str:
    return interval_cell(found, style)
