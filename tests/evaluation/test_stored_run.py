"""Evaluations read back from their folders."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomamba.evaluation.answers import AnswerOptions
from biomamba.evaluation.document_scores import (
    DOCUMENT_SCORES,
    ScoreOrigin,
    StoredScores,
    write_document_scores,
)
from biomamba.evaluation.perplexity import DocumentScores, perplexity_records
from biomamba.evaluation.records import (
    RecordContext,
    TaskRecord,
    format_records,
    format_task_records,
    read_task_records,
)
from biomamba.evaluation.stored_run import PREDICTIONS, StoredModel, read_evaluation
from biomamba.evaluation.task_runner import TaskEvaluation
from biomamba.metrics.classification import label_measures
from biomamba.metrics.measure import Bootstrap, Measure, interval_of
from biomamba.runtime.errors import DataError
from biomamba.tasks.task import Answer, ChooseLabel, WriteText

Build = Callable[..., Any]
LABELS = ["yes", "no", "maybe"]
BOOTSTRAP = Bootstrap(num_resamples=20)


class LabelTask:
    """Has the figures of a task of labels."""

    def measures(self, items: list[Any], predictions: list[Any]) -> list[Measure]:
        assert items == predictions == []
        return label_measures(LABELS, [], [])


TASKS: Any = {"qa": LabelTask()}


def write_documents(folder: Path, seed: int = 0, **changes: Any) -> None:
    provenance = {
        "checkpoints": {"model": {"path": "runs/x/model", "sha256": "a" * 64}},
        "data_fingerprint": "d",
    }
    rng = np.random.default_rng(seed)
    scores = DocumentScores(rng.random(9) * 30, np.full(9, 10), np.full(9, 40))
    context = RecordContext("model", "pubmed", "test", BOOTSTRAP, provenance)
    (folder / "results.jsonl").write_text(format_records(perplexity_records(context, scores)))
    origin = ScoreOrigin(
        source="pubmed",
        model="model",
        split="test",
        tokenizer="t",
        protocol={"seq_len": 64, "segments": None},
        provenance=provenance,
    )
    keys = np.arange(9, dtype=np.uint64)
    stored = StoredScores(replace(origin, **changes), keys, scores)
    write_document_scores(folder / DOCUMENT_SCORES, stored)


def write_answers(
    folder: Path, model: str = "model", split: str = "test", **header: Any
) -> list[Measure]:
    """Write 30 answers of a model, and the records of their figures."""
    rng = np.random.default_rng(len(model))
    truths, answers = (list(rng.choice(LABELS, size=30)) for _ in range(2))
    measures = label_measures(LABELS, truths, answers)
    suffix = "" if split == "test" else f".{split}"
    path = folder / PREDICTIONS / f"qa.{model}{suffix}.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines: list[dict[str, Any]] = [
        {"header": {"checkpoint_sha256": "a" * 64, "options": {"label_by": "x"}} | header}
    ]
    lines += [
        {
            "key": f"q{item}",
            "unit": f"patient {item // 2}",
            "columns": {m.name: m.columns[item].tolist() for m in measures},
        }
        for item in range(30)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = TaskRecord(
        task="qa",
        protocol="3way",
        split=split,
        metric="",
        value=0.0,
        low=0.0,
        high=1.0,
        level=0.95,
        method="wilson",
        n=30,
        n_groups=15,
        seed=1,
        model=model,
        prompt="qa_v1",
        prompt_fingerprint="p",
        checkpoint_sha256="a" * 64,
        data_fingerprint="d",
        provenance={"checkpoints": {model: {"path": "runs/x/model", "sha256": "a" * 64}}},
        answer={"by": "likelihood", "decision": "argmax", "num_cut_prompts": 3},
    )
    records = [replace(record, metric=m.name, value=m.value) for m in measures]
    records += [replace(records[0], model="majority", checkpoint_sha256=None)]
    records += [replace(records[0], metric="accuracy_change", value=0.5)]
    (folder / "task_results.jsonl").write_text(format_task_records(records))
    return measures


def read_one(folder: Path) -> StoredModel:
    (model,) = read_evaluation(folder, TASKS)
    return model


def test_documents_come_back_with_their_protocol(tmp_path: Path) -> None:
    write_documents(tmp_path)
    model = read_one(tmp_path)
    assert (model.label, model.checkpoint, model.path) == ("model", "a" * 64, "runs/x/model")
    scored = model.scored["pubmed"]
    assert scored.protocol == {"split": "test", "seq_len": 64, "segments": None}
    assert (scored.tokenizer, len(scored.items)) == ("t", 9)


def test_answers_come_back_as_the_figures_that_they_were(tmp_path: Path) -> None:
    written = write_answers(tmp_path)
    scored = read_one(tmp_path).scored["qa"]
    assert [m.name for m in scored.measures] == [m.name for m in written]
    for found, expected in zip(scored.measures, written, strict=True):
        assert (found.columns == expected.columns).all()
        assert found.value == expected.value
        assert found.is_proportion == expected.is_proportion
    assert scored.items[:2] == ["q0", "q1"]
    assert scored.units[:4] == ["patient 0", "patient 0", "patient 1", "patient 1"]
    assert scored.tokenizer is None
    assert scored.protocol["answer"]["by"] == "likelihood"
    assert "num_cut_prompts" not in scored.protocol["answer"]


@pytest.mark.parametrize(("kept", "told"), [("not filtered", "not filtered"), (None, "unknown")])
def test_whether_the_test_was_filtered_out_comes_back(
    kept: str | None, told: str, tmp_path: Path
) -> None:
    write_answers(tmp_path)
    path = tmp_path / "task_results.jsonl"
    records = [replace(record, filtered=kept) for record in read_task_records(path)]
    path.write_text(format_task_records(records))

    assert read_one(tmp_path).scored["qa"].filtered == told


@pytest.mark.parametrize("access", ["open", "restricted"])
@pytest.mark.parametrize("kind", [ChooseLabel(("yes", "no", "maybe")), WriteText(4)])
def test_what_an_evaluation_of_tasks_writes_comes_back(
    kind: Answer, access: str, toy_task: Build, toy_model: Build, tmp_path: Path
) -> None:
    task = toy_task(kind=kind, access=access)
    models = [toy_model(), toy_model(label="other", seed=1)]
    evaluation = TaskEvaluation(models, [task], AnswerOptions(), tmp_path / PREDICTIONS)
    evaluation.answer()
    records = list(evaluation.records(BOOTSTRAP, {}))
    (tmp_path / "task_results.jsonl").write_text(format_task_records(records))

    found = read_evaluation(tmp_path, {"toy": task})
    assert [(m.label, m.checkpoint) for m in found] == [
        (model.label, model.checkpoint_sha256) for model in models
    ]
    for model in found:
        scored = model.scored["toy"]
        expected = {r.metric: r for r in records if r.model == model.label and r.against is None}
        assert [measure.name for measure in scored.measures] == list(expected)
        for measure in scored.measures:
            interval, method = interval_of(measure, scored.units, BOOTSTRAP)
            record = expected[measure.name]
            assert (measure.value, method) == (pytest.approx(record.value), record.method)
            assert len(set(scored.units)) == record.n_groups
            assert interval.value == pytest.approx(record.value)


def test_documents_and_answers_of_one_model_are_together(tmp_path: Path) -> None:
    write_documents(tmp_path)
    write_answers(tmp_path)
    assert list(read_one(tmp_path).scored) == ["pubmed", "qa"]


def test_answers_of_the_validation_split_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    write_answers(tmp_path, split="val")
    assert read_one(tmp_path).scored["qa"].protocol["split"] == "val"


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither results\.jsonl nor task_results\.jsonl is there"):
        read_evaluation(tmp_path, {})


def test_an_evaluation_without_scores_of_documents_is_refused(tmp_path: Path) -> None:
    write_documents(tmp_path)
    (tmp_path / DOCUMENT_SCORES / "pubmed.model.npz").unlink()
    with pytest.raises(DataError, match="the evaluation is older than this file is kept"):
        read_evaluation(tmp_path, {})


def test_scores_of_another_start_are_found(tmp_path: Path) -> None:
    write_documents(tmp_path, seed=1)
    records = (tmp_path / "results.jsonl").read_text()
    write_documents(tmp_path, seed=2)
    (tmp_path / "results.jsonl").write_text(records)
    with pytest.raises(
        DataError, match=r"bits_per_byte of its items is .*, the results say .*again"
    ):
        read_evaluation(tmp_path, {})
    write_documents(tmp_path, provenance={"data_fingerprint": "other"})
    with pytest.raises(DataError, match=r"of other documents than .*results\.jsonl"):
        read_evaluation(tmp_path, {})


def test_answers_of_another_start_are_found(tmp_path: Path) -> None:
    write_answers(tmp_path, checkpoint_sha256="b" * 64)
    with pytest.raises(DataError, match="answers of another checkpoint than the results"):
        read_evaluation(tmp_path, TASKS)
    write_answers(tmp_path)
    path = tmp_path / PREDICTIONS / "qa.model.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:-3]))
    with pytest.raises(DataError, match=r"accuracy of its items is .* they are of different"):
        read_evaluation(tmp_path, TASKS)


def test_a_task_that_the_settings_lack_is_named(tmp_path: Path) -> None:
    write_answers(tmp_path)
    with pytest.raises(DataError, match="its settings do not hold task qa"):
        read_evaluation(tmp_path, {})


@pytest.mark.parametrize("text", ["", "{}\n", '{"header": {}}\n{"key": 1}\n', "secret"])
def test_damaged_answers_are_named_and_not_quoted(tmp_path: Path, text: str) -> None:
    write_answers(tmp_path)
    (tmp_path / PREDICTIONS / "qa.model.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"qa\.model\.jsonl: missing, damaged or not") as found:
        read_evaluation(tmp_path, TASKS)
    assert "secret" not in str(found.value)


def test_records_without_a_checkpoint_are_refused(tmp_path: Path) -> None:
    write_documents(tmp_path)
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text().replace('"sha256"', '"odd"'))
    with pytest.raises(DataError, match="the records of model model do not name its checkpoint"):
        read_evaluation(tmp_path, {})
