"""Which adapter a checkpoint gets."""

import json
from pathlib import Path
from typing import Any

import pytest

from biomamba import evaluate
from biomamba.config.compose import compose_config
from biomamba.data.corpora.embedded import EmbeddedCorpus
from biomamba.data.prepare.pipeline import prepare
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel
from biomamba.evaluation.models.causal import TransformersCausal
from biomamba.evaluation.models.extractive import ExtractiveReader
from biomamba.evaluation.models.loading import Pretrained
from biomamba.evaluation.models.opening import is_baseline, open_baseline
from biomamba.evaluation.models.sequence_to_sequence import TransformersSeq2Seq
from biomamba.evaluation.records import read_records, read_task_records
from biomamba.runtime.errors import CheckpointError, ConfigError


def test_every_kind_gets_its_adapter(save_model: Any, save_reader: Any, tmp_path: Path) -> None:
    save_reader(tmp_path, ["some words"])
    folders = {
        save_model("biogpt"): TransformersCausal,
        save_model("t5"): TransformersSeq2Seq,
        tmp_path: ExtractiveReader,
    }
    for folder, adapter in folders.items():
        found = open_baseline(f"hf:{folder}", label="other")
        assert type(found) is adapter
        assert (found.label, found.checkpoint) == ("other", f"hf:{folder}")
        assert len(found.checkpoint_sha256) == len(found.tokenizer.fingerprint) == 64


def test_our_own_models_are_none(save_model: Any) -> None:
    assert is_baseline("hf:microsoft/biogpt")
    assert not is_baseline("state-spaces/mamba2-130m")
    for source in (str(save_model("mamba2")), "hf:"):
        with pytest.raises(ConfigError, match="another model is named hf:"):
            open_baseline(source, label="other")


def test_a_name_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        open_baseline("hf:no such place", label="other")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with documents and questions."""
    corpora = {"web": EmbeddedCorpus("web", num_documents=20)}
    prepare(tmp_path / "set", corpora, ByteLevel(), StorePolicy(val_permille=0, test_permille=900))
    questions = {
        str(n): {
            "QUESTION": f"Does drug {n} help?",
            "CONTEXTS": ["Some words. " * 20],
            "LABELS": ["RESULTS"],
            "final_decision": ("yes", "no", "maybe")[n % 3],
        }
        for n in range(40)
    }
    folder = tmp_path / "raw" / "pubmedqa"
    folder.mkdir(parents=True)
    truths = {name: questions[name]["final_decision"] for name in ("1", "2", "3", "4")}
    (folder / "ori_pqal.json").write_text(json.dumps(questions))
    (folder / "test_ground_truth.json").write_text(json.dumps(truths))
    return tmp_path


def run(place: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    given = [
        *(f"paths.raw_dir={place}/raw", f"paths.run_dir={place}/run", "backend=chunked"),
        *("task=[pubmedqa]", "tasks.pubmedqa.protocol=own-3way", "answers.num_random_draws=2"),
        *("sources=none", f"+sources.web=[{place}/set/web]", "evaluation.seq_len=100"),
        *("evaluation.bootstrap.num_resamples=10", *overrides),
    ]
    hydra = type("Hydra", (), {"overrides": type("Overrides", (), {"task": given})})
    monkeypatch.setattr("biomamba.evaluate.HydraConfig.get", lambda: hydra)
    evaluate.main(compose_config("evaluate", given))


def test_one_of_our_models_is_evaluated_beside_another(
    place: Path, save_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = save_model("mamba2"), save_model("gpt2")

    run(place, monkeypatch, f"checkpoint={ours}", f"baseline=hf:{other}")

    answers = read_task_records(place / "run" / "task_results.jsonl")
    accuracy = [record for record in answers if record.metric == "accuracy_change"]
    assert [(record.model, record.against) for record in accuracy] == [("model", other.name)]
    digest = next(r.checkpoint_sha256 for r in answers if r.model == other.name)
    assert digest == Pretrained.find(str(other)).sha256()
    documents = read_records(place / "run" / "results.jsonl")
    assert [(record.model, record.metric) for record in documents] == [
        (other.name, "bits_per_byte"),
        ("model", "perplexity"),
        ("model", "bits_per_byte"),
        ("model", "bits_per_byte_change"),
    ]


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        ("gpt2", "evaluation.seq_len=129", "windows of at most 128 tokens"),
        ("gpt2", "evaluation.by_position=true", "has tokens of its own"),
        ("t5", "split=test", "cannot score documents, tasks only; set sources=none"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_asked(
    kind: str, override: str, message: str, place: Path, save_model: Any, monkeypatch: Any
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(place, monkeypatch, f"checkpoint=hf:{save_model(kind)}", override)
    assert not (place / "run").exists()
