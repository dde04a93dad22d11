"""Runs of several ranks that are stopped in any way continue as if nobody had stopped them.

Copies (DDP) and shards (FSDP2), fp32 and bf16-mixed, with and without accumulation: batches,
weights, optimizer, average, guard and random states must be bit-equal.
"""

import functools
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomamba import prepare, train
from biomamba.config.cli import STOPPED_CODE, USER_ERROR_CODE, run_cli
from biomamba.config.compose import compose_config
from biomamba.data.batches import Batch
from biomamba.data.ledger import Ledger
from biomamba.runtime import signals
from biomamba.training import checkpoint_io
from biomamba.training.checkpoint_io import DurableCheckpointIO, verify_checkpoint
from biomamba.training.module import LanguageModelingModule

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]

ROWS, STEPS, LONG_STEPS = 8, 10, 50
SETTINGS = (
    "run_id=x",
    "tokens_per_step=256",
    f"data.budget.seq_len={256 // ROWS}",
    "data.max_val_documents=2",
    "data.verify=size",
    "trainer.log_every_n_steps=1",
    "callbacks.progress=null",
    "callbacks.agreement.every_n_steps=2",
    "callbacks.checkpoint.keep_last=100",
    "model.config.d_model=16",
    "model.config.n_layer=2",
)
SHORT = (
    f"max_tokens={STEPS * 256}",
    "trainer.val_check_interval=4",
    "callbacks.checkpoint.every_n_steps=2",
    "callbacks=ema",
    "callbacks.ema.decay=0.5",
)
LONG = (
    f"max_tokens={LONG_STEPS * 256}",
    "trainer.val_check_interval=25",
    "callbacks.checkpoint.every_n_steps=25",
    "data.budget.micro_batch_size=2",
)
DDP, FSDP = "trainer=cpu_2", "trainer=cpu_2_fsdp"
# Strategy, precision and rows of a micro-batch; each of the two ranks has four rows of a step.
CELLS = {
    "ddp, accumulated": (DDP, "32-true", 1),
    "ddp, bf16": (DDP, "bf16-mixed", 4),
    "fsdp": (FSDP, "32-true", 4),
    "fsdp, bf16, accumulated": (FSDP, "bf16-mixed", 1),
}
BAD_STEP = 2
BAD_ROW = BAD_STEP * ROWS + 4  # the first row of the second rank


@dataclass(frozen=True)
class Fault:
    """A signal that one rank, or every one (None), sends itself; `write` is only of rank zero."""

    step: int
    point: str
    number: signal.Signals
    rank: int | None = None

    def act(self, point: str, step: int) -> None:
        is_here = self.rank in {None, int(os.environ.get("RANK", "0"))}
        if is_here and (point, step) == (self.point, self.step):
            os.kill(os.getpid(), self.number)


class Watch(lightning.Callback):
    """Hashes every batch, and lets the fault come."""

    def __init__(self, log: Path, fault: Fault | None) -> None:
        self.lines = log
        self.fault = fault

    def act(self, point: str, trainer: lightning.Trainer) -> None:
        if self.fault:
            self.fault.act(point, trainer.global_step)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        rows = [int(row) for part in batch for row in part.row_ids]
        line = {"step": trainer.global_step, "rows": rows, "digest": digest_of(batch)}
        with self.lines.with_name(f"{self.lines.name}_{trainer.global_rank}").open("a") as file:
            file.write(f"{json.dumps(line)}\n")
        self.act("begin", trainer)

    def on_before_backward(self, trainer: Any, *_: Any) -> None:
        self.act("backward", trainer)

    def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
        self.act("optimizer", trainer)

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        self.act("validation", trainer)

    def on_save_checkpoint(self, trainer: Any, *_: Any) -> None:
        self.act("save", trainer)


def digest_of(batch: Sequence[Batch]) -> str:
    found = sha256()
    for part in batch:
        for name in ("input_ids", "targets", "seq_idx", "source", "num_bytes", "row_ids"):
            found.update(getattr(part, name).numpy().tobytes())
        found.update(part.pieces.tobytes())
    return found.hexdigest()


def program(run_dir: Path, arguments: Sequence[str], fault: Fault | None, bad_row: int) -> None:
    """The training program, with a batch that is not a number and a fault."""
    nll_sums, build_callbacks = LanguageModelingModule._nll_sums, train.build_callbacks
    write_record = checkpoint_io.write_sealed

    def spoiled(module: LanguageModelingModule, batch: Batch) -> Any:
        is_bad = torch.is_grad_enabled() and int(batch.row_ids[0]) == bad_row
        return (part * torch.nan if is_bad else part for part in nll_sums(module, batch))

    def interrupted(path: Path, record: Any) -> None:
        if fault:
            fault.act("write", int(record["step"]))
        write_record(path, record)

    def watched(nodes: Any, run: Any) -> list[Any]:
        return [*build_callbacks(nodes, run), Watch(run_dir.with_suffix(".batches"), fault)]

    LanguageModelingModule._nll_sums = spoiled  # type: ignore[method-assign]
    checkpoint_io.write_sealed = interrupted
    train.build_callbacks = watched
    sys.argv = ["train", f"paths.run_dir={run_dir}", *arguments]
    signals.listen()
    run_cli("train", train.main)


Start = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, fork_ranks: Any) -> Start:
    """Return start(run_dir, *arguments, num_ranks, fault): the ends of the ranks."""
    data = tmp_path_factory.mktemp("data")
    prepare.main(compose_config("prepare", [f"paths.data_dir={data}", "run_id=x"]))

    def _start(
        run_dir: Path,
        *arguments: str,
        num_ranks: int = 2,
        fault: Fault | None = None,
        bad_row: int = -1,
    ) -> list[Any]:
        given = (*SETTINGS, f"paths.data_dir={data}", *arguments)
        ends: list[Any] = fork_ranks(
            functools.partial(program, run_dir, given, fault, bad_row), num_ranks
        )
        return ends

    return _start


def finish(ends: Sequence[Any]) -> None:
    assert [end.code for end in ends] == [0] * len(ends), [end.errors[-3000:] for end in ends]


def faults(number: int) -> list[Fault]:
    """A kill of one rank, a request to one and a kill of all, at other points in each cell."""
    rng = random.Random(number)
    kill = signal.SIGKILL
    early = rng.choice(["begin", "backward", "optimizer"])
    asked = [
        ("save", signal.SIGUSR1),
        ("validation", signal.SIGTERM),
        ("backward", signal.SIGUSR2),
        ("optimizer", signal.SIGTERM),
    ]
    late = [
        Fault(8, "write", kill, rank=0),
        Fault(8, "validation", kill),
        Fault(9, "backward", kill),
        Fault(8, "save", kill),
    ]
    return [
        Fault(rng.choice([2, 3]), early, kill, rng.choice([0, 1])),
        Fault(4, *asked[number], rng.choice([0, 1])),
        late[number],
    ]


@pytest.mark.parametrize("cell", list(CELLS))
def test_a_run_that_is_killed_and_asked_to_stop_is_the_run_itself(
    start: Start, tmp_path: Path, cell: str
) -> None:
    trainer, precision, rows = CELLS[cell]
    arguments = (trainer, f"trainer.precision={precision}", *SHORT)
    arguments = (*arguments, f"data.budget.micro_batch_size={rows}")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(start(whole, *arguments, bad_row=BAD_ROW))
    for workers, fault in enumerate(faults(list(CELLS).index(cell))):
        options = (f"data.num_workers={workers}", *arguments)
        ends = start(stopped, *options, fault=fault, bad_row=BAD_ROW)
        check_ends(ends, fault, stopped)
    finish(start(stopped, *arguments, bad_row=BAD_ROW))
    assert_equal_trees(last_state(stopped), last_state(whole))
    assert np.array_equal(entries(stopped), entries(whole))
    assert_same_batches(stopped, whole)
    assert_same_curves(stopped, whole)
    for folder in ("model", "model_ema"):
        assert_equal_trees(*(load_file(r / folder / "model.safetensors") for r in (stopped, whole)))
    # The step with a row that is not a number was left out by all ranks, whatever their strategy.
    assert last_state(whole)["step_guard"]["skipped_steps"] == 1
    before, behind = (state_of(whole, step)["optimizer_states"] for step in (2, 4))
    assert float(behind[0]["state"][0]["step"]) == float(before[0]["state"][0]["step"]) + 1


def check_ends(ends: Sequence[Any], fault: Fault, run_dir: Path) -> None:
    """All ranks end; who was asked has saved at the end of the step, whichever rank it was."""
    codes = [end.code for end in ends]
    errors = [end.errors[-3000:] for end in ends]
    if fault.number == signal.SIGKILL:
        killed = {rank for rank, code in enumerate(codes) if code == -signal.SIGKILL}
        # One of all may lose the others before it comes to its own end.
        assert killed == {fault.rank} if fault.rank is not None else killed
        for rank in {0, 1} - killed:
            assert codes[rank] == USER_ERROR_CODE, errors
            assert "lost another rank of the run (" in errors[rank]
        return
    assert codes == [STOPPED_CODE] * 2, errors
    # A request that comes after the last agreement of a step is heard at the end of the next.
    saved = fault.step + 1
    path = run_dir / "checkpoints" / f"step_{saved:07d}.ckpt"
    assert verify_checkpoint(path).reason == fault.number.name
    assert f"{fault.number.name}: saved step {saved} in {path}" in ends[0].errors


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_two_ranks_then_one_then_four_are_one(start: Start, tmp_path: Path, precision: str) -> None:
    settings = (*LONG, f"trainer.precision={precision}", "objective.gradient_sums=float64")
    whole = tmp_path / "whole"
    finish(start(whole, *settings, num_ranks=1))
    for first, last in ((DDP, FSDP), (FSDP, DDP)):
        stopped = tmp_path / first.partition("=")[2]
        fault = Fault(16, "backward", signal.SIGTERM, rank=1)
        assert start(stopped, first, *settings, fault=fault)[0].code == STOPPED_CODE
        fault = Fault(33, "backward", signal.SIGTERM)
        assert start(stopped, *settings, num_ranks=1, fault=fault)[0].code == STOPPED_CODE
        options = (last, "trainer.devices=4", "data.budget.micro_batch_size=2")
        finish(start(stopped, *settings, *options, num_ranks=4))
        record = json.loads((stopped / "run.json").read_text())
        begun = [(found["world_size"], found["step"]) for found in record["starts"]]
        assert begun == [(2, 0), (1, 17), (4, 34)]
        assert rows_by_step(stopped) == rows_by_step(whole)
        assert np.array_equal(entries(stopped), entries(whole))
        assert distance(stopped, whole) <= 1e-6


def test_a_rank_with_a_checkpoint_of_its_own_is_named(start: Start, tmp_path: Path) -> None:
    options = (FSDP, *SHORT, "data.budget.micro_batch_size=4", f"max_tokens={3 * 256}")
    finish(start(tmp_path / "run", *options))
    state, io = state_of(tmp_path / "run", 2), DurableCheckpointIO()
    for rank in range(2):
        state["optimizer_states"][0]["state"][0]["exp_avg"][0] += rank
        io.save_checkpoint(state, tmp_path / f"of_{rank}" / "step_0000002.ckpt")
    named = f"resume={tmp_path}/of_${{oc.env:RANK}}/step_0000002.ckpt"
    for end in start(tmp_path / "other", *options, named):
        assert end.code == USER_ERROR_CODE, end.errors
        assert "have come apart after step 2: checkpoint: rank 1 (" in end.errors


def distance(one: Path, other: Path) -> float:
    """Return the largest difference of a weight."""
    found, wanted = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert found.keys() == wanted.keys()
    return max(float((found[name] - wanted[name]).abs().max()) for name in wanted)


def rows_by_step(run_dir: Path) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for line in batch_lines(run_dir):
        found.setdefault(line["step"], set()).update(line["rows"])
    return found


def batch_lines(run_dir: Path) -> list[dict[str, Any]]:
    logs = sorted(run_dir.parent.glob(f"{run_dir.name}.batches_*"))
    return [
        json.loads(line) | {"rank": log.name[-1]}
        for log in logs
        for line in log.read_text().splitlines()
    ]


def assert_same_batches(stopped: Path, whole: Path) -> None:
    """Also those of steps that were made again."""
    wanted = {(line["rank"], line["step"]): line["digest"] for line in batch_lines(whole)}
    assert len(wanted) == 2 * STEPS
    lines = batch_lines(stopped)
    assert {(line["rank"], line["step"]) for line in lines} == wanted.keys()
    assert all(wanted[line["rank"], line["step"]] == line["digest"] for line in lines)


def assert_same_curves(stopped: Path, whole: Path) -> None:
    """A kill may take the point of the step that was saved with it, nothing else does."""
    record = json.loads((stopped / "run.json").read_text())
    behind_kills = {record["starts"][number]["step"] for number in (1, 3)}
    for name in ("train/loss", "train/grad_norm", "val/loss"):
        mine, its = (points(run_dir, name) for run_dir in (stopped, whole))
        assert len(dict(mine)) == len(mine)
        assert dict(its).keys() - dict(mine).keys() <= behind_kills
        assert all(dict(its)[step] == value for step, value in mine)


def points(run_dir: Path, name: str) -> list[tuple[int, float]]:
    curves = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    return [(p.step, p.value) for p in curves.Scalars(name) if np.isfinite(p.value)]


def entries(run_dir: Path) -> NDArray[Any]:
    ledger = Ledger(run_dir / "ledger")
    assert (ledger.gaps, ledger.num_unfinished_steps) == ([], 0)
    return np.concatenate(list(ledger.chunks()))


def state_of(run_dir: Path, step: int) -> dict[str, Any]:
    path = run_dir / "checkpoints" / f"step_{step:07d}.ckpt"
    return DurableCheckpointIO().load_checkpoint(path)


def last_state(run_dir: Path) -> dict[str, Any]:
    """Everything but where the run is and how many batches it has validated on."""
    state = state_of(run_dir, STEPS)
    state["callbacks"].pop("LedgerWriter")
    state["loops"].pop("validate_loop")
    loops = state["loops"]["fit_loop"]
    for name in [name for name in loops if "val_loop" in name]:
        loops.pop(name)
    return state


def assert_equal_trees(found: Any, wanted: Any) -> None:
    found, wanted = (dict(leaves(tree)) for tree in (found, wanted))
    assert found.keys() == wanted.keys()
    for place, value in wanted.items():
        assert same(found[place], value), place


def leaves(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict | list | tuple):
        children = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for name, child in children:
            yield from leaves(child, f"{place}/{name}")
    else:
        yield place, tree


def same(found: Any, wanted: Any) -> bool:
    """Say whether two values have the same bits; of numbers, the words."""
    if isinstance(wanted, torch.Tensor):
        return found.dtype == wanted.dtype and found.numpy().tobytes() == wanted.numpy().tobytes()
    return repr(found) == repr(wanted)
