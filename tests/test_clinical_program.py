"""Restricted notes from end to end: no text of them is left, and what they become is private."""

import contextlib
import csv
import functools
import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomamba import audit, evaluate, export, generate, prepare, report, train
from biomamba.config.cli import run_cli
from biomamba.data.tokenizer import Tokenizer
from biomamba.evaluation.records import read_task_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

INVENTED = Path(__file__).parent / "fixtures" / "clinical" / "discharge.csv"
TASKS = ("discharge_summary", "note_completion")
SHAPED = "real notes in the shape of MIMIC"
FIGURES = {"rouge1_f", "rouge2_f", "rougel_f", "bleu", "unsupported_number_ratio", "length_ratio"}
TRAINING = (
    "data=instruct",
    "max_tokens=null",
    "data.budget.epochs=1",
    "data.budget.seq_len=512",
    "data.budget.micro_batch_size=2",
    "data.samples.max_target_tokens=128",
    "data.samples.long_targets=cut",
    "tokens_per_step=2_048",
    "callbacks=select",
    "callbacks.progress=null",
    "callbacks.preemption=null",
    "model.config.d_model=32",
    "model.config.n_layer=2",
)


@pytest.fixture(params=["invented", SHAPED])
def notes(request: pytest.FixtureRequest) -> Path:
    """Return a table of notes: those written for the tests, or a larger one."""
    if request.param == "invented":
        return INVENTED
    folder: Path = request.getfixturevalue("real_data")
    return folder / "mimic-iv-note-format" / "discharge.csv.gz"


def program(name: str, main: Callable[..., Any], arguments: tuple[str, ...], output: Path) -> None:
    os.umask(0o022)
    sys.argv = [name, *arguments]
    with output.open("w") as file, contextlib.redirect_stdout(file):
        run_cli(name, main)


def open_to_others(folder: Path) -> list[str]:
    """Return what in a folder, itself included, others than its owner may read or write."""
    assert folder.is_dir()
    return [str(path) for path in (folder, *folder.rglob("*")) if path.lstat().st_mode & 0o077]


def lines_of(notes: Path) -> set[bytes]:
    """Return the beginnings of the longer lines of all notes."""
    opened = gzip.open if notes.suffix == ".gz" else open
    with opened(notes, "rt", encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    lines = (line.strip() for text in texts for line in text.splitlines())
    return {line[:40].encode() for line in lines if len(line) >= 40}


def test_notes_are_learned_from_and_scored_without_being_kept(
    notes: Path, tmp_path: Path, fork_ranks: Any
) -> None:
    Tokenizer.byte_tokenizer().save(tmp_path / "tokenizer" / "tokenizer.json")
    of_task = [
        option
        for task in TASKS
        for option in (
            f"tasks.{task}.notes.rows.files=[{notes}]",
            f"tasks.{task}.split.val_permille=300",
            f"tasks.{task}.split.test_permille=300",
        )
    ]
    chosen = (f"task=[{','.join(TASKS)}]", *of_task)
    if notes != INVENTED:
        # These notes have headings of other hospitals too.
        chosen = (*chosen, "tasks.discharge_summary.sections=lines")
        chosen = (*chosen, "tasks.discharge_summary.audit_sections=lines")
    prompts = 512 - 128
    runs = {
        "train": (train.main, (*TRAINING, f"data.tokenizer={tmp_path}/tokenizer")),
        "evaluate": (
            evaluate.main,
            (
                "sources=none",
                f"checkpoint={tmp_path}/train/model_best",
                f"answers.max_prompt_tokens={prompts}",
                *(f"tasks.{task}.max_new_tokens=16" for task in TASKS),
                "evaluation.bootstrap.num_resamples=100",
            ),
        ),
        "audit": (audit.main, ()),
    }
    errors = ""
    for name, (main, arguments) in runs.items():
        given = (*chosen, *arguments, f"paths.run_dir={tmp_path}/{name}", "run_id=x")
        output = tmp_path / f"{name}.out"
        (end,) = fork_ranks(functools.partial(program, name, main, given, output))
        assert end.code == 0, end.errors[-3000:]
        errors += end.errors

    for name in runs:
        assert not open_to_others(tmp_path / name)
    learned = json.loads((tmp_path / "train" / "run.json").read_text())["data"]["tasks"]
    assert all(learned[task]["train"]["num_samples"] for task in TASKS)
    records = read_task_records(tmp_path / "evaluate" / "task_results.jsonl")
    for task in TASKS:
        assert {r.metric for r in records if r.task == task} >= FIGURES
    leaks = json.loads((tmp_path / "audit" / "leakage.json").read_text())
    assert leaks
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    shown = errors.encode() + b"".join(path.read_bytes() for path in files)
    pieces = lines_of(notes)
    assert len(pieces) > 20
    assert not [piece for piece in pieces if piece in shown]


PRETRAINING = (
    "max_tokens=2_048",
    "tokens_per_step=1_024",
    "data.budget.seq_len=128",
    "data.budget.micro_batch_size=4",
    "data.max_val_documents=2",
    "callbacks.checkpoint.every_n_steps=1",
    "callbacks.progress=null",
    "model.config.d_model=16",
    "model.config.n_layer=2",
)


def test_what_is_made_of_restricted_stores_is_private_and_of_open_ones_is_not(
    tmp_path: Path, fork_ranks: Any
) -> None:
    def run(name: str, main: Callable[..., Any], *arguments: str) -> str:
        output = tmp_path / "output"
        (end,) = fork_ranks(functools.partial(program, name, main, arguments, output))
        assert end.code == 0, end.errors[-3000:]
        return end.errors

    def sources_of(store: Path) -> str:
        return f"sources={{biomedical:[{store}],web:[{store}],encyclopaedic:[{store}]}}"

    def train_on(store: Path, run_dir: Path, *arguments: str) -> str:
        weights = "data.mixture.weights={biomedical:1.0,web:0.0,encyclopaedic:0.0}"
        sources = (sources_of(store), weights)
        return run(
            "train", train.main, *PRETRAINING, *sources, f"paths.run_dir={run_dir}", *arguments
        )

    split = ("split.val_permille=300", "split.test_permille=300", "run_id=x", "num_workers=2")
    places = (f"paths.data_dir={tmp_path}/data", f"paths.run_dir={tmp_path}/prepare_x")
    notes = ("corpus=[mimic_discharge]", f"corpora.mimic_discharge.rows.files=[{INVENTED}]")
    run("prepare", prepare.main, *notes, *split, *places, "name=notes")
    assert not open_to_others(tmp_path / "data" / "notes")
    assert not open_to_others(tmp_path / "prepare_x")
    run(
        "prepare",
        prepare.main,
        "run_id=x",
        "corpus=[embedded_web]",
        *places[:1],
        "name=free",
        f"paths.run_dir={tmp_path}/prepare_y",
    )
    store, free = tmp_path / "data/notes/mimic_discharge", tmp_path / "data/free/web"
    assert (tmp_path / "data" / "free").stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in free.glob("*.bin"))

    # A folder that an earlier version has written.
    run_dir = tmp_path / "runs" / "notes"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "note.txt").write_text("")
    run_dir.chmod(0o755)
    assert "restricted: only you can read what is written (corpus " in train_on(store, run_dir)
    assert not open_to_others(run_dir)
    train_on(free, tmp_path / "runs" / "open")
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "runs" / "open").rglob("*")}
    assert modes == {0o755, 0o644}

    # What a model of restricted text is used for is as private, whatever else it reads.
    after = tmp_path / "runs" / "after"
    train_on(free, after, f"model.checkpoint={run_dir}/model")
    model, evaluated = f"checkpoint={after}/model_x", tmp_path / "evaluated"
    (after / "model").rename(after / "model_x")
    sources = (sources_of(free), "evaluation.bootstrap.num_resamples=20")
    run(
        "evaluate",
        evaluate.main,
        model,
        *sources,
        "split=val",
        "run_id=x",
        f"paths.run_dir={evaluated}",
    )
    (tmp_path / "prompts.txt").write_text("The patient\n")
    texts = tmp_path / "texts" / "texts.jsonl"
    run(
        "generate",
        generate.main,
        model,
        f"prompts={tmp_path}/prompts.txt",
        f"output={texts}",
        "generation.max_new_tokens=4",
    )
    exported = tmp_path / "exported"
    run(
        "export",
        export.main,
        model,
        "format=transformers",
        f"output={exported}",
        "card.allow_restricted=true",
    )
    run(
        "report",
        report.main,
        f"runs=[{tmp_path}/run*/aft*,{evaluated}]",
        f"output={tmp_path}/report",
    )
    for folder in (after, evaluated, texts.parent, exported, tmp_path / "report"):
        assert not open_to_others(folder), folder
