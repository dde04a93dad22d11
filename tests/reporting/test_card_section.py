"""Reproduction cards in a report."""

from biomamba.reporting.reproduction import NOT_RUN, RUN, Card, card_section, cards_markdown
from biomamba.reporting.section import Table


def card(**changes: object) -> Card:
    told: dict[str, object] = {
        "paper": "p",
        "title": "QA",
        "source": "a paper",
        "scale": "130m",
        "metric": "accuracy",
        "paper_value": 0.63,
        "paper_low": 0.56,
        "paper_high": 0.69,
        "status": NOT_RUN,
        "commands": ["train 130m", "evaluate 130m"],
    }
    return Card(**{**told, **changes})  # type: ignore[arg-type]


RUN_CARD = card(
    scale="370m",
    status=RUN,
    model="m",
    size="48 layers of 1024",
    value=0.66,
    low=0.62,
    high=0.7,
    num_seeds=3,
    gap=0.03,
    is_inside=True,
    filtered="not filtered",
    differences=["seeds: paper 1, ours 3"],
    provenance={"commit": "abc"},
)


def test_a_table_holds_every_card() -> None:
    section = card_section([card(), RUN_CARD])
    table = next(part for part in section.parts if isinstance(part, Table))
    assert [list(row) for row in table.rows] == [
        ["130m", "accuracy", "63.00 [56.00, 69.00]", "not run", "-", NOT_RUN, "-", "-", "-"],
        [
            "370m",
            "accuracy",
            "63.00 [56.00, 69.00]",
            "66.00 [62.00, 70.00], 3 seeds",
            "m, 48 layers of 1024",
            RUN,
            "+3.00",
            "yes",
            "not filtered",
        ],
    ]
    words = " ".join(part for part in section.parts if isinstance(part, str))
    assert "2 published values: 1 run (1 inside our interval)" in words
    assert "Protocol differences of 370m: seeds: paper 1, ours 3." in words
    assert "Not run at 130m; to run it: train 130m ; evaluate 130m" in words


def test_every_card_stands_in_a_file_of_its_own() -> None:
    text = cards_markdown([card(), RUN_CARD])
    assert "## QA: 370m, accuracy" in text
    assert "- gap: +3.00" in text
    assert text.count("- test filtered out of our training data: not filtered") == 1
    assert "- paper value inside our interval: yes" in text
    assert "  - seeds: paper 1, ours 3" in text
    assert "- to run it: `train 130m` && `evaluate 130m`" in text


def test_without_a_paper_it_says_how_to_name_one() -> None:
    assert "No paper was named" in str(card_section([]).parts)
