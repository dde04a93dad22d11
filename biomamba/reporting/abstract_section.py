"""The figures of a report that matter most, in a few sentences at its top."""

from collections.abc import Sequence

from biomamba.evaluation.comparison import ComparisonSettings, Models
from biomamba.evaluation.simple_answers import MAJORITY
from biomamba.evaluation.task_records import CHANGE, TaskRecord
from biomamba.metrics.combined import Combined
from biomamba.metrics.interval import Interval
from biomamba.metrics.paired import Difference, paired_difference
from biomamba.metrics.seeds import difference_over_seeds
from biomamba.reporting.comparison_tables import probability_cell
from biomamba.reporting.report_inputs import Evaluation
from biomamba.reporting.report_scores import ReportScores
from biomamba.reporting.section import Part, Section
from biomamba.reporting.tables import interval_cell
from biomamba.reporting.tradeoff_plots import non_dominated
from biomamba.reporting.tradeoff_sections import combined_seeds, general_panel, places_of
from biomamba.training.lineage import UNKNOWN

_MAX_TASKS = 2


def abstract_section(
    scores: ReportScores,
    evaluations: Sequence[Evaluation],
    domain: str,
    settings: ComparisonSettings,
) -> Section:
    """Return what changed on the domain, on general text, and on tasks."""
    parts: list[Part] = []
    panel, general = general_panel(scores, domain)
    reference = settings.reference if settings.reference in panel else next(iter(panel), None)
    if reference is not None and len(panel) > 1:
        parts += _changes(panel, reference, domain, general, settings)
    records = [record for evaluation in evaluations for record in evaluation.tasks]
    parts += _tasks(records)
    if not parts:
        parts.append(
            "Evaluations of two models on the same documents, or of one on a task, put their main "
            "figures here."
        )
    return Section("In short", parts)


def _changes(
    panel: Models, reference: str, domain: str, general: Sequence[str], settings: ComparisonSettings
) -> list[Part]:
    here = combined_seeds(panel, [domain])
    others = [name for name in panel if name != reference]
    best = min(others, key=lambda name: _mean(here[name]))
    found = _difference(here[best], here[reference], settings)
    seeds = f", {len(panel[best])} seeds" if len(panel[best]) > 1 else ""
    chosen = f", the lowest of {len(others)} models beside it" if len(others) > 1 else ""
    documents = len(set(here[best][0].units))
    parts: list[Part] = [
        f"{domain}: {_mean(here[best]):.3f} bits per byte for {best}{seeds}{chosen}, against "
        f"{_mean(here[reference]):.3f} for {reference}: {_told(found)}, {documents:,} documents."
    ]
    if not general:
        return parts
    there = combined_seeds(panel, general)
    change = _difference(there[best], there[reference], settings)
    names = " and ".join(general)
    parts.append(
        f"General text (plain mean of {names}): {_mean(there[best]):.3f} bits per byte for {best}, "
        f"against {_mean(there[reference]):.3f} for {reference}: {_told(change)}."
    )
    if len(panel) > 2:
        front = non_dominated(places_of(panel, domain, general, settings.bootstrap))
        listed = ", ".join(place.model for place in front)
        parts.append(
            f"Not dominated by another one are {len(front)} of {len(panel)} models: {listed}."
        )
    return parts


def _difference(
    one: Sequence[Combined], other: Sequence[Combined], settings: ComparisonSettings
) -> Difference:
    units = one[0].units
    mine, theirs = [each.measure for each in one], [each.measure for each in other]
    if len(mine) == len(theirs) == 1:
        return paired_difference(mine[0], theirs[0], units, settings.bootstrap)
    # One statistic for both: the columns of a seed differ, what is made of their sums does not.
    return difference_over_seeds(mine, theirs, units, settings.bootstrap)


def _told(found: Difference) -> str:
    p_value = probability_cell(found.p_value)
    p_value = p_value if p_value.startswith("<") else f"= {p_value}"
    bounds = Interval(found.value, found.low, found.high)
    return f"{interval_cell(bounds, '+.3f')}, p {p_value}"


def _mean(seeds: Sequence[Combined]) -> float:
    return sum(each.measure.value for each in seeds) / len(seeds)


def _tasks(records: Sequence[TaskRecord]) -> list[Part]:
    """Return the main figure of the first tasks: the best model beside the majority answer."""
    parts: list[Part] = []
    for task in list(dict.fromkeys(record.task for record in records))[:_MAX_TASKS]:
        mine = [r for r in records if r.task == task and not r.metric.endswith(CHANGE)]
        asked = [r for r in mine if r.checkpoint_sha256 is not None]
        metric = asked[0].metric if asked else None
        asked = [r for r in asked if r.metric == metric]
        if not asked:
            continue
        sign = -1 if asked[0].higher_is_better is False else 1
        best = max(asked, key=lambda record: sign * record.value)
        simple = next((r for r in mine if (r.model, r.metric) == (MAJORITY, metric)), None)
        beside = f"; the most frequent answer alone: {simple.value:.3f}" if simple else ""
        count = len({record.checkpoint_sha256 for record in asked})
        chosen = f", the best of {count} checkpoints" if count > 1 else ""
        parts.append(
            f"{task}: {metric} {interval_cell(best.interval, '.3f')} for {best.model}"
            f"{chosen}, {best.n:,} items, filtered: {best.filtered or UNKNOWN}{beside}."
        )
    return parts
