"""Reproduction cards: a published value, ours with its interval, and the differences."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from biomamba.metrics.measure import Bootstrap, wilson_interval
from biomamba.reporting.inputs import Evaluation
from biomamba.reporting.paper import SCALES, Candidate, Paper, candidates, differences
from biomamba.reporting.scores import ReportScores
from biomamba.reporting.section import Part, Section, Table
from biomamba.reporting.training_sections import commit, hardware

# -------------------------------------------------------------------------------------------------
# Reproduction cards: a published value, ours with its interval, and what was done differently.
# -------------------------------------------------------------------------------------------------

RUN, OTHER, NOT_RUN = "run", "another model", "not run"
_FLOPS = 6  # per parameter and token, forward and backward


@dataclass(frozen=True, kw_only=True)
class Card:
    """One published value and ours.

    Attributes:
        status: `run`: the same model on the same test set; `another model`: what there is instead,
            which must not be compared; `not run`: nothing.
        gap: Ours minus the published value; None unless it was run.
        is_inside: Whether the published value is in our interval; None unless it was run.
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


# -------------------------------------------------------------------------------------------------
# Reproduction cards as a section of a report and as a file of their own.
# -------------------------------------------------------------------------------------------------

_NONE = "-"
_PERCENT = 100


def card_section(cards: Sequence[Card]) -> Section:
    """Return a table of all published values, and the differences of what was run."""
    title = "Reproduction cards"
    if not cards:
        return Section(
            title,
            [
                "No paper was named; paper=[biomamba2_perplexity,biomamba2_pubmedqa] puts its "
                "published values beside ours (conf/paper)."
            ],
        )
    parts: list[Part] = [
        f"{_counted(cards)} A value of another model, or of another test set, is here to show "
        "what there is; it is not compared with the published one."
    ]
    for name in dict.fromkeys(card.paper for card in cards):
        mine = [card for card in cards if card.paper == name]
        parts.append(_table(name, mine))
        parts += _differences(mine)
    return Section(title, parts)


def cards_markdown(cards: Sequence[Card]) -> str:
    """Return one card after the other, as reproduction_cards.md."""
    lines = ["# Reproduction cards", "", _counted(cards), ""]
    for card in cards:
        lines += [f"## {card.title}: {card.scale}, {card.metric}", ""]
        lines += [f"- {name}: {value}" for name, value in _lines(card)]
        lines += [f"  - {each}" for each in card.differences] if card.status == RUN else []
        lines.append("")
    return "\n".join(lines)


def _lines(card: Card) -> list[tuple[str, str]]:
    told = [("paper", f"{_paper_value(card)} ({card.source})"), ("ours", _ours(card))]
    told += [("status", card.status)]
    told += [("model", f"{card.model}, {card.size}")] if card.model else []
    if card.status == RUN:
        told += [("gap", _gap(card)), ("paper value inside our interval", _inside(card))]
    if card.status == OTHER:
        told += [("why it does not compare", "; ".join(card.differences[:2]) or _NONE)]
    if card.filtered:
        told += [("test filtered out of our training data", card.filtered)]
    if card.compute:
        told += [("compute", card.compute)]
    if card.provenance:
        known = {key: value for key, value in card.provenance.items() if value}
        told += [("provenance", ", ".join(f"{key} {value}" for key, value in known.items()))]
    if card.status != RUN:
        told += [("to run it", " && ".join(f"`{command}`" for command in card.commands) or _NONE)]
    else:
        told += [("protocol differences", f"{len(card.differences)}")]
    return told


def _table(name: str, cards: Sequence[Card]) -> Table:
    first = cards[0]
    return Table(
        name=f"cards_{name}",
        caption=f"{first.title}. Published: {first.source}. Inside: whether the published value "
        "is in our interval. Filtered: whether the files of the test are among those that our "
        "training data were filtered against. reproduction_cards.md and .json have every card in "
        "full.",
        header=[
            "scale",
            "metric",
            "published",
            "ours",
            "model",
            "status",
            "gap",
            "inside",
            "filtered",
        ],
        rows=[
            [
                card.scale,
                card.metric,
                _paper_value(card),
                _ours(card),
                f"{card.model}, {card.size}" if card.model else _NONE,
                card.status,
                _gap(card),
                _inside(card),
                card.filtered or _NONE,
            ]
            for card in cards
        ],
        values=None,
    )


def _differences(cards: Sequence[Card]) -> list[Part]:
    """Return what was done in another way, each list once, and what would run the rest."""
    told: dict[str, list[str]] = {}
    for card in cards:
        if card.status == RUN and card.differences:
            told.setdefault("; ".join(card.differences), []).append(card.scale)
    parts: list[Part] = [
        f"Protocol differences of {', '.join(dict.fromkeys(scales))}: {words}."
        for words, scales in told.items()
    ]
    missing = list(dict.fromkeys(card.scale for card in cards if card.status != RUN))
    if missing and cards[-1].commands:
        scale = missing[0]
        commands = next(card.commands for card in cards if card.scale == scale)
        rest = f" ({', '.join(missing[1:])} likewise)" if missing[1:] else ""
        parts.append(f"Not run at {scale}{rest}; to run it: {' ; '.join(commands)}")
    return parts


def _counted(cards: Sequence[Card]) -> str:
    run = [card for card in cards if card.status == RUN]
    inside = sum(card.is_inside is True for card in run)
    other = sum(card.status == OTHER for card in cards)
    return (
        f"{len(cards)} published values: {len(run)} run ({inside} inside our interval), {other} "
        f"with a figure of another model only, {len(cards) - len(run) - other} not run."
    )


def _paper_value(card: Card) -> str:
    value = _shown(card, card.paper_value)
    if card.paper_low is None or card.paper_high is None:
        return value
    return f"{value} [{_shown(card, card.paper_low)}, {_shown(card, card.paper_high)}]"


def _ours(card: Card) -> str:
    if card.value is None:
        return "not run"
    told = _shown(card, card.value)
    if card.low is not None and card.high is not None:
        told += f" [{_shown(card, card.low)}, {_shown(card, card.high)}]"
    seeds = f", {card.num_seeds} seeds" if (card.num_seeds or 1) > 1 else ""
    return f"{told}{seeds}"


def _gap(card: Card) -> str:
    if card.gap is None:
        return _NONE
    gap = card.gap if card.metric == "perplexity" else card.gap * _PERCENT
    return f"{gap:+.2f}"


def _inside(card: Card) -> str:
    return _NONE if card.is_inside is None else "yes" if card.is_inside else "no"


def _shown(card: Card, value: float) -> str:
    """Return perplexity as it is, shares in percent, as papers do."""
    return f"{value:.2f}" if card.metric == "perplexity" else f"{value * _PERCENT:.2f}"
