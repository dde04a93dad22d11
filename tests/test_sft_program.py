"""Fine-tuning by the program: selection, early stops, ranks, and gradients of every adapter."""

import csv
import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from biomamba import train
from biomamba.config.check import build
from biomamba.config.cli import run_cli
from biomamba.config.compose import compose_config
from biomamba.data.tokenizer import Tokenizer

WORDS = ["cough", "fever", "pain", "rash"]
SETTINGS = (
    "task=[mts_dialog]",
    "data=instruct",
    "max_tokens=null",
    "data.budget.epochs=2",
    "tokens_per_step=1_024",
    "data.budget.seq_len=128",
    "data.budget.micro_batch_size=4",
    "data.samples.max_target_tokens=24",
    "callbacks=ema_select",
    "callbacks.progress=null",
    "callbacks.preemption=null",
    "callbacks.checkpoint.every_n_steps=1",
    "callbacks.checkpoint.keep_last=100",
    "trainer.val_check_interval=2",
    "model.config.d_model=32",
    "model.config.n_layer=2",
    "optimizer.lr=0.01",
    "objective.gradient_sums=float64",
    "run_id=x",
)


@pytest.fixture
def arguments(tmp_path: Path) -> tuple[str, ...]:
    """Write a task and a tokenizer; return what names them."""
    Tokenizer.byte_tokenizer().save(tmp_path / "tokenizer.json")
    for name, count in (("TrainingSet", 30), ("ValidationSet", 6)):
        path = tmp_path / "mts-dialog" / f"MTS-Dialog-{name}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["ID", "section_header", "section_text", "dialogue"])
            for number in range(count):
                word = WORDS[number % len(WORDS)]
                rows.writerow([number, "CC", f"{word}.", f"I have {word} {number} {name}."])
    return (f"paths.raw_dir={tmp_path}", f"data.tokenizer={tmp_path}", *SETTINGS)


def program(run_dir: Path, arguments: tuple[str, ...]) -> None:
    sys.argv = ["train", f"paths.run_dir={run_dir}", *arguments]
    run_cli("train", train.main)


def test_every_adapter_gets_a_gradient(arguments: tuple[str, ...]) -> None:
    cfg = compose_config("train", [*arguments, "+adaptation=lora", "callbacks=default"])
    data = build(cfg.data)
    module = train.build_module(cfg, data)
    matrices = {n: p for n, p in module.model.named_parameters() if p.requires_grad}
    assert len(matrices) == 2 * 2 * 2  # two matrices each of in_proj and out_proj of two layers
    steps = data.steps(rank=0, world_size=1)
    for step in range(2):  # B is zero at first, and A gets its gradient through B
        for parameter in matrices.values():
            parameter.grad = None
        torch.stack(
            [total for part in steps[step] for total in module._nll_sums(part)]
        ).sum().backward()
        with torch.no_grad():
            for parameter in matrices.values():
                assert parameter.grad is not None
                parameter.sub_(1e-3 * parameter.grad)

    assert all(float(parameter.grad.abs().max()) > 0 for parameter in matrices.values())  # type: ignore[union-attr]
    frozen = [p for p in module.model.parameters() if not p.requires_grad]
    assert frozen
    assert all(parameter.grad is None for parameter in frozen)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_and_stops_leave_no_trace_in_what_is_selected(
    tmp_path: Path, arguments: tuple[str, ...], fork_ranks: Any
) -> None:
    def start(name: str, *options: str, num_ranks: int = 1) -> Path:
        run_dir = tmp_path / name
        given = (*arguments, *options)
        ends = fork_ranks(functools.partial(program, run_dir, given), num_ranks)
        assert [end.code for end in ends] == [0] * num_ranks, [e.errors[-3000:] for e in ends]
        return run_dir

    whole = start("whole")
    chosen, told = record(whole)["selection"], record(whole)
    assert told["data"]["tasks"]["mts_dialog"]["train"]["num_samples"] == 30
    assert told["before"]["val/mts_dialog/nll"] > chosen["figure"]
    for trainer in ("cpu_2", "cpu_2_fsdp"):
        ranks = start(trainer, f"trainer={trainer}", num_ranks=2)
        # Stopped after step 2, before its validation; gone on with alone.
        alone = start(f"{trainer}_alone", f"resume={ranks}/checkpoints/step_0000002.ckpt")
        for run_dir in (ranks, alone):
            found = record(run_dir)["selection"]
            assert found["step"] == chosen["step"]
            assert found["figure"] == pytest.approx(chosen["figure"], rel=1e-6)
            assert distance(run_dir, whole) <= 1e-6


@pytest.mark.slow
def test_a_run_that_stopped_early_is_finished(
    tmp_path: Path,
    arguments: tuple[str, ...],
    fork_ranks: Any,
) -> None:
    options = ("callbacks.selection.mode=max", "callbacks.selection.patience=1")
    run_dir = tmp_path / "run"
    for _ in range(2):  # the second start finds nothing to do
        (end,) = fork_ranks(functools.partial(program, run_dir, (*arguments, *options)))
        assert end.code == 0, end.errors[-3000:]
    found = record(run_dir)

    assert found["selection"]["stopped_at_step"] == 4
    assert found["selection"]["step"] == 2
    assert len(found["starts"]) == 1
    assert found["after"]["step"] == 4


def record(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
    return found


def distance(one: Path, other: Path) -> float:
    """Return the largest difference of a selected weight."""
    found, wanted = (load_file(run / "model_best" / "model.safetensors") for run in (one, other))
    return max(float((found[name] - wanted[name]).abs().max()) for name in wanted)
