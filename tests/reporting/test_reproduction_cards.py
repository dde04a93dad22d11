"""Reproduction cards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomamba.metrics.measure import Bootstrap
from biomamba.reporting.groups import run_groups
from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.paper import Paper
from biomamba.reporting.reproduction import (
    NOT_RUN,
    OTHER,
    RUN,
    Card,
    card_section,
    cards_markdown,
    cards_of,
    format_cards,
)
from biomamba.reporting.scores import report_scores
from biomamba.reporting.section import Table

BOOTSTRAP = Bootstrap(num_resamples=100, seed=1)
PAPER = Paper(
    title="Perplexity",
    source="somewhere",
    subjects=["web"],
    values={"perplexity": {"130m": 4.0, "370m": 3.0}},
    protocol={"packing": "SingleDocument", "seeds": 1},
    commands=["train {scale}"],
)


@pytest.fixture
def cards(
    write_run: Callable[..., Path], write_evaluation: Callable[..., Path], tmp_path: Path
) -> Callable[..., list[Card]]:
    """Return cards of a model of so many layers and width with these bits per byte."""

    def _cards(layers: int, width: int, bits: Any, paper: Paper = PAPER) -> list[Card]:
        run = write_run(tmp_path / "run")
        config = run / ".hydra" / "config.yaml"
        text = config.read_text().replace("n_layer: 2", f"n_layer: {layers}")
        config.write_text(text.replace("d_model: 16", f"d_model: {width}"))
        paths = {"ours": str(run / "model")}
        folder = write_evaluation(tmp_path / "e", {"ours": {"web": bits}}, paths)
        inputs = read_inputs([run, folder])
        scores = report_scores(inputs.evaluations, run_groups(inputs.runs))
        return cards_of({"p": paper}, scores, inputs.evaluations, BOOTSTRAP)

    return _cards


def test_the_same_model_is_compared(cards: Callable[..., list[Card]]) -> None:
    like, other = cards(24, 768, [0.9, 1.1, 1.0, 0.95, 1.05, 1.0])
    # 2 bytes a token: a perplexity of 2 ** (2 bits) = 4 on the mean.
    assert (like.status, like.is_inside) == (RUN, True)
    assert like.gap == pytest.approx(0.0, abs=1e-9)
    assert like.differences == ["packing: paper SingleDocument, ours not known"]
    assert "2,000 tokens, about 1.2e+07 FLOPs (6ND)" in str(like.compute)  # 6 x 1,000 x 2,000
    # The same figure is beside the larger one as that of another model, without a gap.
    assert (other.status, other.gap, other.is_inside) == (OTHER, None, None)
    assert other.differences[0] == "model: paper 48 layers of 1024, ours 24 layers of 768"


def test_a_published_value_outside_is_told(cards: Callable[..., list[Card]]) -> None:
    like, _ = cards(24, 768, [1.4, 1.6, 1.5, 1.45, 1.55, 1.5])
    assert like.is_inside is False
    assert like.gap == pytest.approx(2**3 - 4)


def test_a_small_model_is_never_compared(cards: Callable[..., list[Card]]) -> None:
    found = cards(2, 16, [0.9, 1.1, 1.0, 0.95, 1.05, 1.0])
    assert [(card.status, card.gap, card.is_inside) for card in found] == [(OTHER, None, None)] * 2
    text = cards_markdown(found)
    assert "2 published values: 0 run (0 inside our interval), 2 with a figure of another" in text
    assert "why it does not compare: model: paper 24 layers of 768, ours 2 layers of 16" in text
    assert "to run it: `train 370m`" in text
    table = next(p for p in card_section(found).parts if isinstance(p, Table))
    assert [row[4:] for row in table.rows] == [["ours, 2 layers of 16", OTHER, "-", "-", "-"]] * 2


def test_without_a_figure_it_says_what_would_run_it() -> None:
    hits = Paper(
        title="QA",
        source="s",
        subjects=["quiz"],
        values={"accuracy": {"130m": 0.6829}},
        num_hits_of={"accuracy": 82},
        commands=["go {scale}"],
    )
    (card,) = cards_of({"p": hits}, report_scores([]), [], BOOTSTRAP)
    assert (card.status, card.value, list(card.commands)) == (NOT_RUN, None, ["go 130m"])
    # Wilson's interval of 56 of 82.
    assert (card.paper_low, card.paper_high) == pytest.approx((0.576, 0.774), abs=1e-3)
    (told,) = json.loads(format_cards([card]))
    assert (told["paper_value"], told["status"]) == (0.6829, NOT_RUN)
