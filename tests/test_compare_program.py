"""`python -m biomamba.compare` on small evaluations."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from biomamba.compare import main, models_of, tasks_of
from biomamba.config.compose import compose_config
from biomamba.data.corpora.embedded import EmbeddedCorpus
from biomamba.data.prepare.pipeline import prepare
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel
from biomamba.evaluation.comparison import document_changes
from biomamba.evaluation.document_scores import (
    DOCUMENT_SCORES,
    read_document_scores,
    write_document_scores,
)
from biomamba.evaluation.records import format_records, read_records
from biomamba.evaluation.runner import EvaluationSettings, evaluate_perplexity
from biomamba.metrics.measure import Bootstrap
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import ConfigError, DataError

Compare = Callable[..., str]
# A document of the store whose test split is scored has about 500 bytes.
SETTINGS = {"split": "test", "seq_len": 128, "batch_size": 8, "max_documents": 6}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    corpora = {"biomedical": EmbeddedCorpus("biomedical", num_documents=40)}
    prepare(folder, corpora, ByteLevel(), StorePolicy(val_permille=300, test_permille=300))
    return folder / "biomedical"


@pytest.fixture(scope="module")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the evaluations a, b, c and d of four models; b, c and d are of one recipe."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate("abcd"):
        train = folder / "train" / name
        (train / ".hydra").mkdir(parents=True)
        recipe = {"name": name, "seed": seed, "lr": 0.1 if name == "a" else 0.2}
        OmegaConf.save(OmegaConf.create(recipe), train / ".hydra" / "config.yaml")
        evaluate(folder / name, store, seed, train / "model")
    return folder


def evaluate(run: Path, store: Path, seed: int, checkpoint: Path, **changes: object) -> None:
    """Write what biomamba.evaluate writes of a model with random weights."""
    torch.manual_seed(seed)
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=257, d_state=4, headdim=8)
    settings = EvaluationSettings(
        sources={"biomedical": [str(store)]},
        bootstrap=Bootstrap(num_resamples=200, seed=1),
        **(SETTINGS | changes),  # type: ignore[arg-type]
    )
    known = {"model": {"path": str(checkpoint), "sha256": f"{seed}" * 64}}
    keep = partial(write_document_scores, run / DOCUMENT_SCORES)
    models = {"model": MambaLM(config, ChunkedScan())}
    records = list(evaluate_perplexity(models, settings, {"checkpoints": known}, keep))
    (run / "results.jsonl").write_text(format_records(records))


@pytest.fixture
def compare(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Return compare(names, *overrides): what the program prints about evaluations."""

    def _compare(names: str, *overrides: str) -> str:
        for name in "abcd":
            names = names.replace(f"@{name}", str(runs / name))
        resamples = "comparison.bootstrap.num_resamples=200"
        output = f"output={tmp_path / 'out'}"
        main(compose_config("compare", [f"runs={names}", output, resamples, *overrides]))
        return capsys.readouterr().out

    return _compare


def test_two_evaluations_become_a_table_records_and_pictures(
    compare: Compare, runs: Path, tmp_path: Path
) -> None:
    shown = compare("[@a,@b]", "comparison.metrics=[all]")
    output = tmp_path / "out"
    assert (output / "comparison.md").read_text().strip() in shown
    for picture in ("intervals.png", "changes.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (output / "comparison.jsonl").read_text().splitlines()]
    assert [(line["metric"], line["model"], line["against"]) for line in lines] == [
        ("perplexity", "a", None),
        ("perplexity", "b", "a"),
        ("bits_per_byte", "a", None),
        ("bits_per_byte", "b", "a"),
    ]
    scores = [
        read_document_scores(runs / name / DOCUMENT_SCORES / "biomedical.model.npz").scores
        for name in "ab"
    ]
    bits = [s.nll.sum() / (math.log(2) * s.num_bytes.sum()) for s in scores]
    assert lines[3]["difference"] == pytest.approx(bits[1] - bits[0], rel=1e-9)
    for name, line in zip("ab", lines[2:], strict=True):
        record = read_records(runs / name / "results.jsonl")[1]
        assert line["value"] == pytest.approx(record.value, rel=1e-12)
        # Documents are drawn in another order: the bounds agree to the noise of 200 draws.
        assert line["high"] - line["low"] == pytest.approx(record.high - record.low, rel=0.3)
    with (output / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[3]["p_holm"]) == lines[3]["p_holm"]


def test_changes_are_those_of_the_single_documents(runs: Path) -> None:
    models = models_of({"x": [str(runs / "a")], "y": [str(runs / "b"), str(runs / "c")]})
    found = document_changes(models, "x")
    bits = []
    for name in "abc":
        stored = read_document_scores(runs / name / DOCUMENT_SCORES / "biomedical.model.npz")
        bits.append(stored.scores.nll / (math.log(2) * stored.scores.num_bytes))
    assert list(found) == ["biomedical"]
    assert list(found["biomedical"]) == ["y"]
    expected = (bits[1] + bits[2]) / 2 - bits[0]
    assert found["biomedical"]["y"] == pytest.approx(expected)


def test_runs_of_one_recipe_become_one_line_over_their_seeds(compare: Compare) -> None:
    shown = compare("[@a,@b,@c,@d]", "comparison.metrics=[bits_per_byte]")
    assert "3, sd 0." in shown
    assert "corrected for the 1 tests of this table" in shown


def test_given_names_and_a_given_reference(compare: Compare) -> None:
    shown = compare("{base:[@a],tuned:[@b,@c]}", "comparison.reference=tuned")
    assert "differences are model minus tuned" in shown
    assert "2, sd 0." in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_documents": 5}, "not the same items: 6 and 5, 5 of them in both"),
        ({"split": "val"}, "split is 'test' and 'val'"),
        ({"seq_len": 64}, "seq_len is 128 and 64"),
    ],
)
def test_another_question_is_refused(
    changes: dict[str, object],
    message: str,
    compare: Compare,
    store: Path,
    tmp_path: Path,
) -> None:
    evaluate(tmp_path / "other", store, 8, tmp_path / "no" / "model", **changes)
    with pytest.raises(DataError, match=f"a and other must not be compared: .*{message}"):
        compare(f"[@a,{tmp_path / 'other'}]")


def test_another_tokenizer_leaves_bits_per_byte(
    compare: Compare, store: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    evaluate(other, store, 8, tmp_path / "no" / "model")
    stored = read_document_scores(other / DOCUMENT_SCORES / "biomedical.model.npz")
    stored = replace(stored, origin=replace(stored.origin, tokenizer="another"))
    write_document_scores(other / DOCUMENT_SCORES, stored)
    shown = compare(f"[@a,{other}]")
    assert "| perplexity" not in shown
    assert "| bits_per_byte" in shown
    assert "- perplexity of biomedical is a figure per token, and the models have" in shown
    with pytest.raises(DataError, match="different tokenizers; compare bits_per_byte instead"):
        compare(f"[@a,{other}]", "comparison.metrics=[perplexity]")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[@a]", r"runs hold one model only \(model\)"),
        ("[]", r"runs must list folders of evaluations, found \[\]"),
        ("@a", "runs must list folders of evaluations, found '"),
        ("{x:@a,y:[@b]}", r"runs\.x must list folders of evaluations"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    names: str, message: str, compare: Compare
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(names)


def test_all_wrong_folders_are_told_at_once_before_anything_is_read(
    compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomamba.compare.read_evaluation", pytest.fail)
    with pytest.raises(ConfigError) as caught:
        compare(f"{{x:[@a,{tmp_path}/no],y:[@b,{tmp_path}/none]}}")
    first, *lines = str(caught.value).splitlines()

    assert first == "2 problems in runs:"
    assert [line.split(":")[0].strip() for line in lines] == [f"{tmp_path}/no", f"{tmp_path}/none"]
    with pytest.raises(ConfigError, match="2 problems in runs:"):
        compare("{x:@a,y:[]}")


def test_an_unknown_figure_is_found_before_any_is_computed(
    compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biomamba.evaluation.comparison._Panel", pytest.fail)
    with pytest.raises(ConfigError, match="metrics names acuracy; measured were perplexity"):
        compare("[@a,@b]", "comparison.metrics=[acuracy]")


def test_tasks_are_built_as_the_evaluation_was_told(tmp_path: Path) -> None:
    overrides = ["checkpoint=x", "task=[pubmedqa]"]
    config = compose_config("evaluate", overrides)
    (tmp_path / ".hydra").mkdir()
    path = tmp_path / ".hydra" / "config.yaml"
    OmegaConf.save(config, path)
    (measure, *_) = tasks_of(tmp_path)["pubmedqa"].measures([], [])
    assert measure.name == "accuracy"
    for text in (
        "tasks: {x: {_target_: biomamba.tasks.no.Such}}",
        "tasks: {x: {_target_: biomamba.runtime.provenance._git, _args_: [[status]]}}",
        "tasks: {x: {_target_: lightning.fabric.utilities.cloud_io._load, path_or_url: x}}",
        "tasks: {x: {_target_: biomamba.tasks.pubmedqa.PubMedQA, file: x}}",
        "tasks: {x: '${oc.env:HF_TOKEN}'}",
        "- text",
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=r"config\.yaml"):
            tasks_of(tmp_path)
    assert tasks_of(tmp_path / "none") == {}
