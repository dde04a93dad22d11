"""Published values, how they and ours were measured, and the summary at the top of a report."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from biomamba.evaluation.comparison import ComparisonSettings, Models
from biomamba.evaluation.records import CHANGE, TaskRecord
from biomamba.evaluation.task_runner import MAJORITY
from biomamba.metrics.measure import Bootstrap, Combined, Interval, interval_of
from biomamba.metrics.significance import (
    Difference,
    difference_over_seeds,
    interval_over_seeds,
    over_seeds,
    paired_difference,
)
from biomamba.reporting.groups import RunGroup
from biomamba.reporting.inputs import Evaluation
from biomamba.reporting.plots import non_dominated
from biomamba.reporting.score_sections import combined_seeds, general_panel, places_of
from biomamba.reporting.scores import ReportScores
from biomamba.reporting.section import Part, Section
from biomamba.reporting.tables import interval_cell, probability_cell
from biomamba.training.lineage import UNKNOWN, worst_status

# Layers and width of the public models. Source: config.json of state-spaces/mamba2-*.
SCALES = {
    "130m": (24, 768),
    "370m": (48, 1024),
    "780m": (48, 1536),
    "1_3b": (48, 2048),
    "2_7b": (64, 2560),
}
# Facts of a protocol that can be read of a run or an evaluation of ours.
FACTS = (
    "tokens",
    "mixture",
    "packing",
    "seq_len",
    "tokens_per_step",
    "learning_rate",
    "averaged_weights",
    "vocabulary",
    "seeds",
    "test_set",
    "num_items",
    "prompt",
    "answers",
)


@dataclass(frozen=True)
class Paper:
    """One result of a paper on one test set.

    Attributes:
        title: What was measured.
        source: Where the values are.
        subjects: Our names of the source or task; of the first the figures compare, the others are
            other test sets that are shown as such.
        values: Metric, as in our records -> scale -> published value, a share where it is one.
        protocol: How it was made, by names of FACTS.
        commands: What would run it; `{scale}` is that of the card.
        num_hits_of: Items of a share of hits, for the interval of the published value itself.
    """

    title: str
    source: str
    subjects: list[str]
    values: dict[str, dict[str, float]]
    protocol: dict[str, Any] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    num_hits_of: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.subjects or not self.values:
            raise ValueError("subjects and values must name at least one each")
        _check_names("protocol", self.protocol, FACTS)
        _check_names("num_hits_of", self.num_hits_of, tuple(self.values))
        for metric, values in self.values.items():
            _check_names(f"values.{metric}", values, tuple(SCALES))
            for scale, value in values.items():
                if not math.isfinite(value):
                    raise ValueError(f"values.{metric}.{scale} must be a number, got {value}")


def _check_names(key: str, found: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    odd = [name for name in found if name not in allowed]
    if odd:
        raise ValueError(f"{key} names {', '.join(map(str, odd))}; allowed: {', '.join(allowed)}")


# -------------------------------------------------------------------------------------------------
# How a figure of ours was made, by the names that protocols of papers are told with.
# -------------------------------------------------------------------------------------------------

_CLOSE = 0.01  # numbers that differ by less are equal


def facts_of(group: RunGroup | None) -> dict[str, Any]:
    """Return what the settings and records of training runs tell; nothing without runs."""
    if group is None:
        return {}
    settings = group.settings
    packing = inside(settings, "data", "packing", "_target_")
    weights = inside(settings, "data", "mixture", "weights")
    told = {
        "tokens": group.num_tokens,
        "mixture": weights if isinstance(weights, dict) else None,
        "packing": str(packing).rpartition(".")[2] if packing else None,
        "seq_len": inside(settings, "data", "budget", "seq_len"),
        "tokens_per_step": settings.get("tokens_per_step"),
        "learning_rate": inside(settings, "optimizer", "lr"),
        "averaged_weights": inside(settings, "callbacks", "ema") is not None,
        "vocabulary": inside(settings, "model", "config", "vocab_size"),
        "seeds": len(group.runs),
    }
    return {name: value for name, value in told.items() if value is not None}


def shape_of(group: RunGroup | None) -> tuple[int, int] | None:
    """Return layers and width of the model of a group, where they are known."""
    if group is None:
        return None
    layers = inside(group.settings, "model", "config", "n_layer")
    width = inside(group.settings, "model", "config", "d_model")
    known = isinstance(layers, int) and isinstance(width, int)
    return (layers, width) if known else None


def differences(paper: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return what of a protocol was done in another way, or is not known of ours."""
    return [
        f"{name.replace('_', ' ')}: paper {_told(wanted)}, ours {_told(ours.get(name))}"
        for name, wanted in paper.items()
        if not _is_same(wanted, ours.get(name))
    ]


def inside(settings: Any, *keys: str) -> Any:
    """Return a value of nested settings; None where there is none."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _is_same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        names = {name for shares in (wanted, found) for name, share in shares.items() if share}
        return all(_is_near(wanted.get(n, 0), found.get(n, 0), absolute=_CLOSE) for n in names)
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        return _is_near(wanted, found, absolute=_CLOSE * abs(wanted))
    return bool(wanted == found)


def _is_near(one: float, other: float, absolute: float) -> bool:
    return abs(one - other) <= absolute


def _told(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(f"{name} {share:.1%}" for name, share in value.items() if share)
    if isinstance(value, int | float):
        return f"{value:,.0f}" if abs(value) >= 10 else f"{value:g}"
    return str(value)


# -------------------------------------------------------------------------------------------------
# Figures of ours that may be beside one of a paper.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A figure of one model, or of one recipe over its seeds, and how it was made.

    filtered: Whether the items of a task were kept out of the training data (see TaskRecord); of
    several seeds the worst. None for documents of a source.
    """

    model: str
    subject: str
    interval: Interval
    num_seeds: int
    checkpoints: Sequence[str]
    facts: Mapping[str, Any]
    provenance: Mapping[str, Any]
    group: RunGroup | None
    filtered: str | None = None

    @property
    def shape(self) -> tuple[int, int] | None:
        """Layers and width."""
        return shape_of(self.group)


def candidates(
    subject: str,
    metric: str,
    scores: ReportScores,
    evaluations: Sequence[Evaluation],
    bootstrap: Bootstrap,
) -> list[Candidate]:
    """Return every model that was measured so, be it on documents or on a task."""
    return [
        *_of_documents(subject, metric, scores, evaluations, bootstrap),
        *_of_tasks(subject, metric, scores, evaluations),
    ]


def _of_documents(
    subject: str,
    metric: str,
    scores: ReportScores,
    evaluations: Sequence[Evaluation],
    bootstrap: Bootstrap,
) -> Iterator[Candidate]:
    origins = {
        (model.checkpoint, record.source): record.provenance
        for evaluation in evaluations
        for model in evaluation.models
        for record in evaluation.records
        if record.model == model.label
    }
    for name, seeds in scores.models.items():
        found = [seed.scored[subject] for seed in seeds if subject in seed.scored]
        named = all(metric in [m.name for m in each.measures] for each in found)
        if len(found) < len(seeds) or not named or len({len(each.items) for each in found}) > 1:
            continue
        first, group = found[0], scores.groups.get(name)
        measures = [each.in_order_of(first).measure(metric) for each in found]
        if len(measures) == 1:
            interval = interval_of(measures[0], first.units, bootstrap)[0]
        else:
            interval = interval_over_seeds(measures, first.units, bootstrap)[0]
        split = first.protocol.get("split")
        told = {
            "num_items": len(first.items),
            "test_set": f"{split} split of {subject}, {len(first.items):,} documents",
        }
        yield Candidate(
            name,
            subject,
            interval,
            len(seeds),
            [seed.checkpoint for seed in seeds],
            {**facts_of(group), **told, "seeds": len(seeds)},
            origins.get((seeds[0].checkpoint, subject), {}),
            group,
        )


def _of_tasks(
    subject: str, metric: str, scores: ReportScores, evaluations: Sequence[Evaluation]
) -> Iterator[Candidate]:
    found: dict[tuple[str, str, str], list[tuple[Evaluation, TaskRecord]]] = {}
    for evaluation in evaluations:
        for record in evaluation.tasks:
            sha256 = record.checkpoint_sha256
            if (record.task, record.metric) != (subject, metric) or sha256 is None:
                continue
            if record.metric.endswith(CHANGE):
                continue
            group = scores.trained.get(sha256)
            name = group.name if group else f"{record.model} of {evaluation.name}"
            rule = f"{record.split} {record.prompt} {record.answer.get('decision')}"
            found.setdefault((name, record.protocol, rule), []).append((evaluation, record))
    for (name, _, _), pairs in found.items():
        records = list({record.checkpoint_sha256: record for _, record in pairs}.values())
        first = records[0]
        group = scores.trained.get(first.checkpoint_sha256 or "")
        told = {
            "num_items": first.n,
            "test_set": f"{first.protocol}, {first.split} split",
            "prompt": first.prompt,
            "answers": str(first.answer.get("by") or "not known"),
        }
        yield Candidate(
            name,
            subject,
            over_records(records),
            len(records),
            [str(record.checkpoint_sha256) for record in records],
            {**facts_of(group), **told, "seeds": len(records)},
            {**first.provenance, "data_fingerprint": first.data_fingerprint},
            group,
            worst_status(record.filtered or UNKNOWN for record in records),
        )


def over_records(records: Sequence[TaskRecord]) -> Interval:
    """Return the mean with an interval: that of one, wider by the scatter of several seeds."""
    first = records[0]
    if len(records) == 1:
        return first.interval
    summary = over_seeds([record.value for record in records], first.level)
    halves = [(record.high - record.low) / 2 for record in records]
    half = math.hypot(statistics.fmean(halves), summary.high - summary.mean)
    return Interval(summary.mean, summary.mean - half, summary.mean + half)


# -------------------------------------------------------------------------------------------------
# The figures of a report that matter most, in a few sentences at its top.
# -------------------------------------------------------------------------------------------------

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
        f"{_mean(here[reference]):.3f} for {reference}: {_abstract_told(found)}, "
        f"{documents:,} documents."
    ]
    if not general:
        return parts
    there = combined_seeds(panel, general)
    change = _difference(there[best], there[reference], settings)
    names = " and ".join(general)
    parts.append(
        f"General text (plain mean of {names}): {_mean(there[best]):.3f} bits per byte for {best}, "
        f"against {_mean(there[reference]):.3f} for {reference}: {_abstract_told(change)}."
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


def _abstract_told(found: Difference) -> str:
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
