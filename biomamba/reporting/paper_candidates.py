"""Figures of ours that may stand beside one of a paper."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biomamba.evaluation.task_records import CHANGE, TaskRecord
from biomamba.metrics.grouped import interval_of
from biomamba.metrics.interval import Bootstrap, Interval
from biomamba.metrics.seeds import interval_over_seeds, over_seeds
from biomamba.reporting.paper_facts import facts_of, shape_of
from biomamba.reporting.report_inputs import Evaluation
from biomamba.reporting.report_scores import ReportScores
from biomamba.reporting.run_groups import RunGroup
from biomamba.training.lineage import UNKNOWN, worst_status


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
