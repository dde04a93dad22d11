"""Results in a model card: of these weights, or not at all."""

from pathlib import Path
from typing import Any

import pytest

from biomamba.evaluation.records import (
    ResultRecord,
    TaskRecord,
    format_records,
    format_task_records,
)
from biomamba.reporting.model_card import CardResults, read_results, results_section
from biomamba.runtime.errors import DataError

OURS, OTHER = "a" * 64, "b" * 64
PROVENANCE = {
    "git": {"commit": "c0ffee"},
    "config_sha256": "f00d",
    "checkpoints": {"adapted": {"sha256": OURS}, "base": {"sha256": OTHER}},
}


def text_record(model: str) -> ResultRecord:
    return ResultRecord(
        model=model,
        source="pubmed",
        split="test",
        metric="bits_per_byte",
        unit="",
        value=1.25,
        low=1.2,
        high=1.3,
        level=0.95,
        num_documents=12,
        num_tokens=345,
        num_bytes=999,
        provenance=PROVENANCE,
    )


def task_record(model: str, sha256: str | None, task: str = "qa", **changes: Any) -> TaskRecord:
    values: dict[str, Any] = {
        "task": task,
        "protocol": "p",
        "split": "test",
        "metric": "accuracy",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "level": 0.95,
        "method": "wilson",
        "n": 500,
        "n_groups": 500,
        "seed": 1,
        "model": model,
        "prompt": "v1",
        "prompt_fingerprint": "p" * 64,
        "checkpoint_sha256": sha256,
        "data_fingerprint": "d" * 64,
        "provenance": PROVENANCE,
    }
    return TaskRecord(**(values | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "eval" / "x"
    folder.mkdir(parents=True)
    texts = [text_record("base"), text_record("adapted")]
    (folder / "results.jsonl").write_text(format_records(texts))
    tasks = [
        task_record("base", OTHER),
        task_record("adapted", OURS, answer={"by": "likelihood", "decision": "argmax"}),
        task_record("adapted", OURS, metric="accuracy_change", against="base", value=0.125),
        task_record("majority", None, value=0.375),
        task_record("base", OTHER, task="only base"),
        task_record("majority", None, task="only base"),
    ]
    (folder / "task_results.jsonl").write_text(format_task_records(tasks))
    return folder


def test_only_figures_of_the_weights_and_simple_answers_are_kept(folder: Path) -> None:
    found = read_results(folder, OURS)

    assert [record.model for record in found.texts] == ["adapted"]
    assert {(r.model, r.task) for r in found.tasks} == {("adapted", "qa"), ("majority", "qa")}
    assert found.left_out == [f"`base` (sha256 {OTHER[:12]})"]
    assert found.subjects == ["pubmed (test split)", "qa (test split)"]
    assert found.name == "eval/x"


def test_an_evaluation_of_other_weights_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(DataError, match=r"holds no figure .*`base` .*`adapted` ") as caught:
        read_results(folder, "c" * 64)
    assert OTHER[:12] in str(caught.value)


def test_records_that_do_not_tell_their_checkpoint_are_refused(folder: Path) -> None:
    record = text_record("unknown")
    (folder / "results.jsonl").write_text(format_records([record]))
    (folder / "task_results.jsonl").unlink()
    with pytest.raises(DataError, match=r"`unknown` \(sha256 not recorded\)"):
        read_results(folder, OURS)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither results"):
        read_results(tmp_path, OURS)


def test_the_section_has_values_with_intervals_and_what_was_left_out(folder: Path) -> None:
    text = results_section([read_results(folder, OURS)], "bfloat16")

    assert "1.250 [1.200, 1.300]" in text
    assert "0.500 [0.400, 0.600]" in text
    assert "+0.125 [+0.400, +0.600]" in text
    assert "0.375" in text
    assert f"not these weights: `base` (sha256 {OTHER[:12]})" in text
    assert "commit c0ffee, config f00d" in text
    assert "answers by likelihood, argmax" in text
    assert "rounded to bfloat16" in text
    assert "only base" not in text


def test_exact_weights_are_not_said_to_be_rounded() -> None:
    results = CardResults(name="x", texts=[text_record("adapted")], tasks=[], left_out=[])

    assert "rounded" not in results_section([results], "float32")


def test_without_results_the_section_says_so() -> None:
    assert "No results were given" in results_section([], "float32")
