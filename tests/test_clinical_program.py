"""Restricted notes from end to end: fine-tuned on, evaluated, audited; no text of them is left."""

import contextlib
import csv
import functools
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomamba import audit, evaluate, train
from biomamba.config.cli import run_cli
from biomamba.data.tokenizer import Tokenizer
from biomamba.evaluation.task_records import read_task_records

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
    sys.argv = [name, *arguments]
    with output.open("w") as file, contextlib.redirect_stdout(file):
        run_cli(name, main)


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
