"""How figures were made."""

from pathlib import Path
from typing import Any

from biomamba.planning.plan import Actual
from biomamba.reporting.groups import RunGroup
from biomamba.reporting.inputs import TrainingRun
from biomamba.reporting.paper import differences, facts_of, inside, shape_of

SETTINGS: dict[str, Any] = {
    "tokens_per_step": 4_096,
    "optimizer": {"lr": 5e-6},
    "model": {"config": {"n_layer": 24, "d_model": 768, "vocab_size": 50_277}},
    "data": {
        "packing": {"_target_": "biomamba.data.packing.BestFit"},
        "mixture": {"weights": {"pubmed": 0.8, "web": 0.2}},
        "budget": {"seq_len": 512},
    },
    "callbacks": {"ema": None},
}


def group() -> RunGroup:
    run = TrainingRun(
        name="a",
        folder=Path("a"),
        record={"realised": {"pubmed": {"tokens": 1_000}}},
        settings=SETTINGS,
        curves={},
        actual=Actual(None, None, None, None, None, None, None),
    )
    return RunGroup("a", (run,))


def test_facts_are_those_of_the_settings() -> None:
    assert facts_of(group()) == {
        "tokens": 1_000.0,
        "mixture": {"pubmed": 0.8, "web": 0.2},
        "packing": "BestFit",
        "seq_len": 512,
        "tokens_per_step": 4_096,
        "learning_rate": 5e-6,
        "averaged_weights": False,
        "vocabulary": 50_277,
        "seeds": 1,
    }
    assert (facts_of(None), shape_of(group()), shape_of(None)) == ({}, (24, 768), None)
    assert inside(SETTINGS, "model", "none", "x") is None


def test_only_what_differs_is_told() -> None:
    ours = facts_of(group())
    assert differences({**ours, "mixture": {"pubmed": 0.8, "web": 0.2, "c4": 0}}, ours) == []
    paper = {
        "tokens": 1_009,  # within a hundredth
        "mixture": {"pubmed": 0.75, "web": 0.25},
        "averaged_weights": True,
        "packing": "SingleDocument",
        "prompt": "bare",
    }
    assert differences(paper, ours) == [
        "mixture: paper pubmed 75.0% web 25.0%, ours pubmed 80.0% web 20.0%",
        "averaged weights: paper yes, ours no",
        "packing: paper SingleDocument, ours BestFit",
        "prompt: paper bare, ours not known",
    ]
