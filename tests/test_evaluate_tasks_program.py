"""`python -m biomamba.evaluate task=[...]` on small models and files."""

import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from biomamba import evaluate
from biomamba.config.cli import USER_ERROR_CODE, run_cli
from biomamba.config.compose import compose_config
from biomamba.data.tokenizer import Tokenizer
from biomamba.evaluation.models.ours import MambaAnswers
from biomamba.evaluation.records import read_task_records
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import save_pretrained, weights_digest
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import BioMambaError, ConfigError, DataError

NOTES = Path(__file__).parent / "fixtures" / "clinical" / "discharge.csv"
LABELS = ("yes", "no", "maybe")
NUM_TEST, NUM_ALL = 11, 60
Evaluate = Callable[..., str]


def write_model(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=257, d_state=8, headdim=8)
    save_pretrained(MambaLM(config, ChunkedScan(8)), folder)
    Tokenizer.byte_tokenizer().save(folder / "tokenizer.json")


def write_questions(folder: Path) -> None:
    records = {
        str(1_000 + n): {
            "QUESTION": f"Does drug {n} help?",
            "CONTEXTS": [f"{'secret' if n < NUM_TEST else 'known'} words. " * (1 + n % 7)],
            "LABELS": ["RESULTS"],
            "final_decision": LABELS[n % 3],
        }
        for n in range(NUM_ALL)
    }
    truths = {name: record["final_decision"] for name, record in list(records.items())[:NUM_TEST]}
    folder.mkdir(parents=True)
    (folder / "ori_pqal.json").write_text(json.dumps(records))
    (folder / "test_ground_truth.json").write_text(json.dumps(truths))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two models and questions."""
    folder = tmp_path_factory.mktemp("place")
    write_model(folder / "base", 0)
    write_model(folder / "adapted", 1)
    write_questions(folder / "raw" / "pubmedqa")
    return folder


PUBMEDQA = ("task=[pubmedqa]", "tasks.pubmedqa.protocol=own-3way")


def arguments(place: Path, run: Path, *more: str) -> list[str]:
    return [
        *("sources=none", *(PUBMEDQA if not any(a.startswith("task=") for a in more) else ())),
        *("answers.batch_size=3", "answers.num_random_draws=5"),
        *("evaluation.bootstrap.num_resamples=50", "backend=chunked"),
        *(f"checkpoint={place}/adapted", f"baseline={place}/base"),
        *(f"paths.raw_dir={place}/raw", f"paths.run_dir={run}", *more),
    ]


@pytest.fixture
def run_program(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Evaluate:
    """Return run_program(*overrides, name=...): what the program prints, run in tmp_path/name."""

    def _run(*overrides: str, name: str = "run") -> str:
        given = arguments(place, tmp_path / name, *overrides)
        hydra = type("Hydra", (), {"overrides": type("Overrides", (), {"task": given})})
        monkeypatch.setattr("biomamba.evaluate.HydraConfig.get", lambda: hydra)
        evaluate.main(compose_config("evaluate", given))
        return capsys.readouterr().out

    return _run


def results(run: Path) -> dict[str, str]:
    """Return all that a run wrote of tasks, without what tells one start from another."""
    files = {path.name: path.read_text() for path in (run / "predictions").iterdir()}
    records = read_task_records(run / "task_results.jsonl")
    plain = [{**vars(record), "provenance": None} for record in records]
    return files | {"records": json.dumps(plain), "table": (run / "task_results.md").read_text()}


def test_records_and_table_hold_models_and_simple_answers(
    run_program: Evaluate, place: Path, tmp_path: Path
) -> None:
    said = run_program()
    records = read_task_records(tmp_path / "run" / "task_results.jsonl")
    accuracy = {r.model: r for r in records if r.metric == "accuracy"}

    assert set(accuracy) == {"base", "adapted", "majority", "random"}
    assert {record.n for record in records} == {NUM_TEST}
    assert {record.split for record in records} == {"test"}
    assert accuracy["base"].checkpoint_sha256 == weights_digest(place / "base")
    assert accuracy["base"].provenance["checkpoints"]["base"]["path"] == f"{place}/base"
    assert set(accuracy["base"].provenance) > {"git", "config_sha256", "machine", "backend"}
    (change,) = [r for r in records if r.metric == "accuracy_change"]
    assert (change.model, change.against) == ("adapted", "base")
    assert change.value == accuracy["adapted"].value - accuracy["base"].value
    assert (tmp_path / "run" / "task_results.md").read_text() in said
    assert not (tmp_path / "run" / "results.jsonl").exists()


def test_the_validation_split_is_marked_and_no_test_question_is_asked(
    run_program: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    score = MambaAnswers.score

    def heard(self: MambaAnswers, requests: Any) -> Any:
        asked.extend(self.tokenizer.decode(request.prompt_ids) for request in requests)
        return score(self, requests)

    monkeypatch.setattr(MambaAnswers, "score", heard)
    said = run_program("split=val")
    records = read_task_records(tmp_path / "run" / "task_results.jsonl")

    assert "Tasks, val split" in said
    assert {record.split for record in records} == {"val"}
    assert {path.name for path in (tmp_path / "run" / "predictions").iterdir()} == {
        *("pubmedqa.base.val.jsonl", "pubmedqa.adapted.val.jsonl"),
    }
    assert asked
    assert not any("secret" in prompt for prompt in asked)


def test_thresholds_stand_in_the_records(run_program: Evaluate, tmp_path: Path) -> None:
    run_program("answers.decision=thresholds", "answers.prior_correction=true")
    records = read_task_records(tmp_path / "run" / "task_results.jsonl")
    answer = next(r for r in records if r.model == "adapted").answer

    assert (answer["decision"], answer["fitted_on"]) == ("thresholds", "val")
    assert answer["prior_correction"] is True
    assert set(answer["offsets"]) == set(LABELS)


def test_labels_can_be_written(run_program: Evaluate, tmp_path: Path) -> None:
    run_program("answers=generation", "answers.batch_size=3")
    records = read_task_records(tmp_path / "run" / "task_results.jsonl")

    assert {r.answer["by"] for r in records if r.model == "adapted"} == {"generation"}
    (ratio,) = [r for r in records if (r.model, r.metric) == ("adapted", "unparsable_ratio")]
    assert ratio.value > 0.5  # a random model writes no label


def test_labels_can_be_chosen_by_a_head(run_program: Evaluate, tmp_path: Path) -> None:
    said = run_program("answers=head", "answers.head.pooling=mean")
    records = read_task_records(tmp_path / "run" / "task_results.jsonl")
    answers = {r.model: r.answer for r in records if r.model in ("base", "adapted")}

    assert "adapted" in said
    assert {answer["by"] for answer in answers.values()} == {"head"}
    heads = [answer["head"] for answer in answers.values()]
    assert [head["pooling"] for head in heads] == ["mean"] * 2
    assert heads[0]["sha256"] != heads[1]["sha256"]
    assert heads[0]["num_train"] > heads[0]["num_val"] > 0

    with pytest.raises(ConfigError, match="head_sha256, options differ"):
        run_program("answers=head", "answers.head.pooling=max")


def test_a_killed_run_goes_on_on_any_number_of_ranks(
    run_program: Evaluate, place: Path, tmp_path: Path, fork_ranks: Any
) -> None:
    run_program(name="whole")
    expected = results(tmp_path / "whole")

    def dies_in_its_third_batch() -> None:
        score, left = MambaAnswers.score, [2]

        def mortal(self: MambaAnswers, requests: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return score(self, requests)

        MambaAnswers.score = mortal  # type: ignore[method-assign]
        whole()

    def whole() -> None:
        torch.set_num_threads(1)
        given = arguments(place, tmp_path / "killed", "run_id=killed", "hydra.output_subdir=null")
        sys.argv = ["evaluate", *given]
        run_cli("evaluate", evaluate.main)

    (killed,) = fork_ranks(dies_in_its_third_batch, 1, 60)
    assert killed.code == -signal.SIGKILL
    part = tmp_path / "killed" / "predictions" / "pubmedqa.base.part_0.jsonl"
    assert len(part.read_text().splitlines()) == 1 + 2 * 3
    assert [ended.code for ended in fork_ranks(whole, 2, 60)] == [0, 0]

    assert results(tmp_path / "killed") == expected


def test_a_rank_without_a_run_id_is_refused(place: Path, tmp_path: Path, fork_ranks: Any) -> None:
    def unnamed() -> None:
        given = [a for a in arguments(place, tmp_path / "x") if not a.startswith("paths.run_dir")]
        os.chdir(tmp_path)
        sys.argv = ["evaluate", *given, "hydra.output_subdir=null", "hydra/job_logging=none"]
        run_cli("evaluate", evaluate.main)

    for ended in fork_ranks(unnamed, 2, 60):
        assert ended.code == USER_ERROR_CODE
        assert "run_id: 2 processes need the same run folder" in ended.errors


def test_other_questions_in_the_same_folder_are_refused(run_program: Evaluate) -> None:
    run_program()

    with pytest.raises(ConfigError, match="prompt_fingerprint differ; choose another run_id"):
        run_program("tasks.pubmedqa.prompt.template='{question} {context} Answer:'")


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["task=[]"], ConfigError, "nothing to evaluate"),
        (["+tasks.again=${tasks.pubmedqa}"], ConfigError, r"several of tasks .*'pubmedqa'"),
        (["answers.max_prompt_tokens=30"], DataError, "30 are allowed"),
        (["checkpoint=nowhere"], BioMambaError, "nowhere"),
        (["tokenizer_file=no.json"], DataError, r"no\.json does not exist"),
    ],
)
def test_what_cannot_be_evaluated_is_told(
    overrides: list[str], kind: type[Exception], message: str, run_program: Evaluate
) -> None:
    with pytest.raises(kind, match=message):
        run_program(*overrides)


def test_nothing_of_restricted_notes_is_written_or_said(
    run_program: Evaluate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    said = run_program(
        "task=[note_completion]",
        f"tasks.note_completion.notes.rows.files=[{NOTES}]",
        "tasks.note_completion.split.test_permille=900",
        "tasks.note_completion.max_new_tokens=8",
        "answers.max_prompt_tokens=200",
    )
    written = "".join(path.read_text() for path in run.rglob("*") if path.is_file())
    shown = said + caplog.text + written

    assert "only hashes, lengths and scores are kept" in said
    pieces = [line[:30] for line in NOTES.read_text().splitlines() if len(line) > 20]
    assert len(pieces) > 50
    assert not [piece for piece in pieces if piece in shown]
    predictions = run / "predictions"
    assert stat.S_IMODE(predictions.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in predictions.iterdir()} == {0o600}
    rows = (predictions / "note_completion.adapted.jsonl").read_text().splitlines()[1:]
    assert rows
    for row in map(json.loads, rows):
        assert set(row["hidden"][0]) == {"sha256", "num_chars"}
        assert not {"candidates", "target", "label"} & set(row)
