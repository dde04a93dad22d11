"""What a card says about the training, and that it says what is not known."""

from dataclasses import replace
from typing import Any

import pytest

from biomamba.data.store.format import StoreFacts
from biomamba.reporting.model_card import (
    contamination_section,
    data_section,
    procedure_section,
    restriction_note,
)
from biomamba.training.lineage import Lineage, TrainedRun

STORE = StoreFacts(
    corpus="abstracts",
    domain="pubmed",
    licence="NLM terms",
    documents=1_234,
    tokens=56_789,
    bytes=99_999,
    dataset="owner/abstracts",
    revision="f" * 40,
    benchmarks={"qa": {"items": 1_000, "items_found": 3}, "yesno": {}},
    rejects={"benchmark": 5},
)
RECORD: dict[str, Any] = {
    "sources": {"pubmed": {"num_documents": 1_234, "num_tokens": 56_789}},
    "realised": {"pubmed": {"tokens": 28_000, "share": 1.0, "epochs": 0.493}},
    "after": {"step": 200.0},
    "selection": {"step": 150},
    "parameters": {"total": 7_000, "trained": 70},
    "starts": [{"world_size": 8}],
    "data_fingerprint": "d" * 64,
    "provenance": {
        "git": {"commit": "c0ffee", "is_dirty": True},
        "config_sha256": "f00d",
        "machine": {"cpu": "some CPU", "gpus": ["H200", "H200"]},
    },
}
SETTINGS: dict[str, Any] = {
    "tokens_per_step": 8_192,
    "seed": 3,
    "optimizer": {"_target_": "biomamba.training.optimizer.AdamW", "lr": 0.002},
    "schedule": {"_target_": "biomamba.training.optimizer.WarmupDecay"},
    "trainer": {"precision": "bf16-mixed"},
    "data": {"budget": {"seq_len": 512}},
}
RUN = TrainedRun("cpt", RECORD, SETTINGS, {"pubmed": [STORE]}, ())
TASKS = {"qa": {"access": "open", "protocol": "p", "files": {"a.json": "1"}}}


def lineage(*runs: TrainedRun) -> Lineage:
    return Lineage(runs, None, "random weights")


def test_data_has_mixture_epochs_and_licences() -> None:
    text = data_section(lineage(RUN))

    assert "In order: random weights, then run `cpt`." in text
    for cell in ("28,000", "100.0%", "0.49", "56,789", "NLM terms", "owner/abstracts", "f" * 12):
        assert f" {cell} |" in text


def test_data_of_tasks_and_of_streams() -> None:
    tuned = TrainedRun("sft", {"data": {"tasks": TASKS}}, {}, {}, ())
    corpora = {"c4": {"licence": "ODC-BY", "rows": {"dataset": "allenai/c4"}}}
    streamed = TrainedRun("stream", {}, {"data": {"corpora": corpora}}, {}, ())
    text = data_section(lineage(tuned, streamed))

    assert "a.json" in text
    assert "ODC-BY | allenai/c4 |" in text


@pytest.mark.parametrize("section", [data_section, contamination_section])
def test_without_a_run_nothing_is_known(section: Any) -> None:
    assert "not known" in section(lineage())
    assert "not known" in procedure_section(lineage(), {})


def test_contamination_says_what_was_kept_out_and_what_was_not_looked_for() -> None:
    open_store = replace(STORE, corpus="web", benchmarks=None)
    text = contamination_section(lineage(replace(RUN, stores={"all": [STORE, open_store]})))

    expected = (
        "filtered against qa (1,000 items, 3 of them found in the set), yesno (counts not known)"
    )
    assert f"- `abstracts`: {expected}; documents left out: 5" in text
    assert "- `web`: no benchmark was looked for" in text


def test_procedure_is_what_the_record_says() -> None:
    text = procedure_section(lineage(RUN), {})
    rows = dict(line.strip("|").split("|")[:2] for line in text.splitlines() if "|" in line)
    found = {key.strip(): value.strip() for key, value in rows.items()}

    assert found["tokens trained on"] == "28,000"
    assert found["last step"] == "200"
    assert found["learning rate"] == "0.002"
    assert found["precision"] == "bf16-mixed"
    assert found["hardware"] == "H200, H200"
    assert found["processes"] == "8"
    assert found["commit"] == "c0ffee, changed"
    assert found["config sha256"] == "f00d"


def test_an_empty_record_gives_no_invented_figure() -> None:
    text = procedure_section(lineage(TrainedRun("x", {}, {}, {}, ())), {})
    values = [line.split("|")[2].strip() for line in text.splitlines()[2:] if "|" in line]

    assert set(values) == {"not known"}


@pytest.mark.parametrize(
    ("origin", "step"),
    [
        ({"path": "runs/cpt/model"}, 200),
        ({"path": "runs/cpt/model_best"}, 150),
        ({"path": "x.ckpt", "step": 100}, 100),
    ],
)
def test_the_step_of_the_weights_is_told(origin: dict[str, Any], step: int) -> None:
    assert f"those of step {step} of run `cpt`" in procedure_section(lineage(RUN), origin)


def test_a_box_says_that_weights_are_restricted_or_that_this_is_not_known() -> None:
    secret = replace(STORE, licence="PhysioNet Credentialed Health Data License 1.5.0")
    restricted = restriction_note(lineage(replace(RUN, stores={"all": [secret]})))
    unknown = restriction_note(lineage(replace(RUN, unknown=("store a is gone",))))

    assert all(line.startswith("> ") for line in (restricted + "\n" + unknown).splitlines())
    assert "treat them as restricted as the data" in restricted
    assert "corpus abstracts is under 'PhysioNet" in restricted
    assert "store a is gone (run cpt): whether it may be shared is not known" in unknown
    assert restriction_note(lineage(RUN)) == ""
