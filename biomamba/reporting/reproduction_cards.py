"""Reproduction cards: a published value, ours with its interval, and what was done differently."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from biomamba.metrics.grouped import wilson_interval
from biomamba.metrics.interval import Bootstrap
from biomamba.reporting.paper import SCALES, Paper
from biomamba.reporting.paper_candidates import Candidate, candidates
from biomamba.reporting.paper_facts import differences
from biomamba.reporting.report_inputs import Evaluation
from biomamba.reporting.report_scores import ReportScores
from biomamba.reporting.run_sections import commit, hardware

RUN, OTHER, NOT_RUN = "run", "another model", "not run"
_FLOPS = 6  # per parameter and token, forward and backward


@dataclass(frozen=True, kw_only=True)
class Card:
    """One published value and ours.

    Attributes:
        status: `run`: the same model on the same test set; `another model`: what there is instead,
            which must not be compared; `not run`: nothing.
        gap: Ours minus the published value; None unless it was run.
        is_inside: Whether the published value lies in our interval; None unless it was run.
        filtered: Whether the items of a task were kept out of the training data of our model (see
            TaskRecord); None for documents of a source.
        paper_low, paper_high: Of a published share of hits, from the number of items.
        differences: What of the protocol was done in another way.
    """

    paper: str
    title: str
    source: str
    scale: str
    metric: str
    paper_value: float
    paper_low: float | None
    paper_high: float | None
    status: str
    model: str | None = None
    size: str | None = None
    subject: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    num_seeds: int | None = None
    gap: float | None = None
    is_inside: bool | None = None
    filtered: str | None = None
    differences: Sequence[str] = ()
    compute: str | None = None
    provenance: Mapping[str, Any] | None = None
    commands: Sequence[str] = ()


def cards_of(
    papers: Mapping[str, Paper],
    scores: ReportScores,
    evaluations: Sequence[Evaluation],
    bootstrap: Bootstrap,
) -> list[Card]:
    """Return a card for every published value."""
    cards = []
    for name, paper in papers.items():
        for metric, values in paper.values.items():
            found = [
                each
                for subject in paper.subjects
                for each in candidates(subject, metric, scores, evaluations, bootstrap)
            ]
            cards += [_card(name, paper, metric, scale, found) for scale in values]
    return cards


def format_cards(cards: Sequence[Card]) -> str:
    """Return the cards as JSON; what is not a number is null."""
    lines = [{name: _plain(value) for name, value in asdict(card).items()} for card in cards]
    return json.dumps(lines, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _card(name: str, paper: Paper, metric: str, scale: str, found: Sequence[Candidate]) -> Card:
    value = paper.values[metric][scale]
    low = high = None
    if metric in paper.num_hits_of:
        num_items = paper.num_hits_of[metric]
        interval = wilson_interval(round(value * num_items), num_items, 0.95)
        low, high = interval.low, interval.high
    card = Card(
        paper=name,
        title=paper.title,
        source=paper.source,
        scale=scale,
        metric=metric,
        paper_value=value,
        paper_low=low,
        paper_high=high,
        status=NOT_RUN,
        commands=[command.replace("{scale}", scale) for command in paper.commands],
    )
    best = _nearest(paper, scale, found)
    return card if best is None else _with_ours(card, paper, best)


def _is_like(paper: Paper, scale: str, candidate: Candidate) -> bool:
    return candidate.shape == SCALES[scale] and candidate.subject == paper.subjects[0]


def _nearest(paper: Paper, scale: str, found: Sequence[Candidate]) -> Candidate | None:
    """Return the like model with the fewest differences, or else the largest of what there is."""

    def order(candidate: Candidate) -> tuple[bool, bool, float, int, str]:
        layers, width = candidate.shape or (0, 0)
        size = 0.0 if candidate.shape == SCALES[scale] else -float(layers * width**2)
        told = len(differences(paper.protocol, candidate.facts))
        is_first = candidate.subject == paper.subjects[0]
        return not _is_like(paper, scale, candidate), not is_first, size, told, candidate.model

    return min(found, key=order, default=None)


def _with_ours(card: Card, paper: Paper, ours: Candidate) -> Card:
    is_like = _is_like(paper, card.scale, ours)
    interval = ours.interval
    layers, width = ours.shape or (0, 0)
    size = f"{layers} layers of {width}" if layers else "of a size that is not known"
    odd = differences(paper.protocol, ours.facts)
    if ours.shape != SCALES[card.scale]:
        wanted = "{} layers of {}".format(*SCALES[card.scale])
        odd = [f"model: paper {wanted}, ours {size}", *odd]
    if ours.subject != paper.subjects[0]:
        odd = [f"task: paper {paper.subjects[0]}, ours {ours.subject}", *odd]
    is_known = math.isfinite(interval.low) and math.isfinite(interval.high)
    inside = interval.low <= card.paper_value <= interval.high
    return Card(
        **{
            **vars(card),
            "status": RUN if is_like else OTHER,
            "model": ours.model,
            "size": size,
            "subject": ours.subject,
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "num_seeds": ours.num_seeds,
            "gap": interval.value - card.paper_value if is_like else None,
            "is_inside": inside if is_like and is_known else None,
            "filtered": ours.filtered,
            "differences": odd,
            "compute": _compute(ours),
            "provenance": _provenance(ours),
        }
    )


def _compute(ours: Candidate) -> str | None:
    if ours.group is None:
        return None
    first = ours.group.runs[0]
    told = [hardware(first.record["provenance"].get("machine", {}), first.actual.world_size)]
    if ours.group.hours is not None:
        told.append(f"{ours.group.hours:.2f} h a run")
    parameters, tokens = first.actual.total_parameters, ours.group.num_tokens
    if tokens is not None:
        told.append(f"{tokens:,.0f} tokens")
        if parameters:
            told.append(f"about {_FLOPS * parameters * tokens:.1e} FLOPs (6ND)")
    return ", ".join(told)


def _provenance(ours: Candidate) -> dict[str, Any]:
    keys = ("config_sha256", "data_fingerprint")
    return {
        "commit": commit(ours.provenance),
        **{key: ours.provenance.get(key) for key in keys},
        "checkpoints": list(ours.checkpoints),
        "argv": ours.provenance.get("argv"),
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
