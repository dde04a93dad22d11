"""Reproduction cards as a section of a report and as a file of their own."""

from collections.abc import Sequence

from biomamba.reporting.reproduction_cards import OTHER, RUN, Card
from biomamba.reporting.section import Part, Section, Table

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
        f"{_counted(cards)} A value of another model, or of another test set, stands here to show "
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
        "lies in our interval. Filtered: whether the files of the test are among those that our "
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
