"""Faults of one of two real processes over gloo, of torchrun, and averaged weights of shards."""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from biomamba.config.cli import USER_ERROR_CODE

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 20
# A start takes seconds; a rank that is never missed would hang for much longer.
BOUND_SECONDS = TIMEOUT_SECONDS + 40
ARGUMENTS = (
    "name=t",
    "tokens_per_step=1_024",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "data.max_val_documents=4",
    "data.budget.seq_len=128",
    "data.budget.micro_batch_size=2",
    "callbacks.agreement.every_n_steps=2",
    "callbacks.progress=null",
)
# Rank 1 fails in step 2, in the way that the environment names.
FAULTS = """
import os, signal, sys
import torch
from biomamba.training.module import LanguageModelingModule

backward = LanguageModelingModule._backward

def faulty(self, batch, step_tokens):
    nll_sum = backward(self, batch, step_tokens)
    if self.global_rank == 1 and self.global_step == 2:
        if os.environ["FAULT"] == "nan":
            nll_sum = nll_sum * torch.nan
        elif os.environ["FAULT"] == "bit":
            with torch.no_grad():
                self.model.backbone.norm_f.weight[0] += 1e-6
        elif os.environ["FAULT"] != "none":
            os.kill(os.getpid(), int(os.environ["FAULT"]))
    return nll_sum

LanguageModelingModule._backward = faulty
from biomamba.config.cli import run_cli
from biomamba.train import main
run_cli("train", main)
"""


class Pair:
    """Two processes of one run, started as srun would: nobody ends one when the other dies."""

    def __init__(self, folder: Path, run_id: str, fault: str, *arguments: str) -> None:
        self.run_dir = folder / "runs" / "t" / run_id
        script = folder / "faulty_train.py"
        script.write_text(FAULTS)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "FAULT": fault,
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = (sys.executable, str(script), f"run_id={run_id}", *ARGUMENTS, *arguments)
        self.errors = [folder / f"{run_id}_{rank}.err" for rank in range(2)]
        self.ranks = []
        for rank, path in enumerate(self.errors):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with path.open("w") as errors:
                self.ranks.append(
                    subprocess.Popen(
                        command,
                        cwd=folder,
                        env=environment | place,
                        stdout=subprocess.DEVNULL,
                        stderr=errors,
                    )
                )

    def wait(self, rank: int, seconds: float = 240) -> tuple[int, str]:
        """Return exit code and error output of a rank."""
        code = self.ranks[rank].wait(timeout=seconds)
        return code, self.errors[rank].read_text()

    def end(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.wait()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared embedded corpora."""
    folder = tmp_path_factory.mktemp("workspace")
    command = (sys.executable, "-m", "biomamba.prepare")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    started: list[Pair] = []
    yield started
    for pair in started:
        pair.end()


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_ends_the_other_one_in_bounded_time(
    workspace: Path, pairs: list[Pair], fault: signal.Signals
) -> None:
    timeout = f"trainer.strategy.timeout_seconds={TIMEOUT_SECONDS}"
    pair = Pair(
        workspace, fault.name, str(int(fault)), "trainer=cpu_2", "max_tokens=8_192", timeout
    )
    pairs.append(pair)
    if fault is signal.SIGKILL:
        assert pair.wait(1)[0] == -fault
    else:
        deadline = time.monotonic() + 240
        while state_of(pair.ranks[1].pid) != "T":
            assert time.monotonic() < deadline
            time.sleep(0.2)
    code, message = pair.wait(0, BOUND_SECONDS)
    assert code == USER_ERROR_CODE, message
    assert "lost another rank of the run (" in message
    # The checkpoint of step 2 is there to continue from.
    assert (pair.run_dir / "checkpoints" / "step_0000002.ckpt").is_file()


def state_of(pid: int) -> str:
    """Return the state of a process as the kernel names it; T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_fault_of_one_rank_skips_the_step_on_both(workspace: Path, pairs: list[Pair]) -> None:
    pair = Pair(workspace, "nan", "nan", "trainer=cpu_2", "max_tokens=4_096")
    pairs.append(pair)
    for rank in range(2):
        code, message = pair.wait(rank)
        assert code == 0, message
    # The agreement of the last step has compared the weights.
    records = [
        json.loads((pair.run_dir / "unusual_steps" / f"rank_{rank:05d}.jsonl").read_text())
        for rank in range(2)
    ]
    assert [(r["step"], r["is_taken"], r["num_faulty_ranks"]) for r in records] == [
        (2, False, 1)
    ] * 2
    assert isinstance(records[0]["nll_of_rank"], float)
    assert records[1]["nll_of_rank"] == "nan"
    assert records[0]["row_ids"] == [16, 17, 18, 19]
    assert records[1]["row_ids"] == [20, 21, 22, 23]
    model = load_file(pair.run_dir / "model" / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in model.values())


def test_a_rank_whose_weights_lost_a_bit_is_named(workspace: Path, pairs: list[Pair]) -> None:
    pair = Pair(workspace, "bit", "bit", "trainer=cpu_2", "max_tokens=8_192")
    pairs.append(pair)
    for rank in range(2):
        code, message = pair.wait(rank)
        assert code not in {0, None}
        assert "the ranks of the run have come apart after step 4: weights: rank 1 (" in message


def test_shards_go_on_with_the_average_of_copies(workspace: Path, pairs: list[Pair]) -> None:
    models, resume = [], "resume=auto"
    for trainer in ("cpu_2", "cpu_2_fsdp"):
        arguments = (f"trainer={trainer}", "max_tokens=4_096", "callbacks=ema", resume)
        pair = Pair(workspace, trainer, "none", *arguments, "callbacks.ema.decay=0.5")
        pairs.append(pair)
        for rank in range(2):
            code, message = pair.wait(rank)
            assert code == 0, message
        resume = f"resume={pair.run_dir / 'checkpoints' / 'step_0000002.ckpt'}"
        models.append(load_file(pair.run_dir / "model_ema" / "model.safetensors"))
        last = load_file(pair.run_dir / "model" / "model.safetensors")
        assert not torch.equal(
            last["backbone.embedding.weight"], models[-1]["backbone.embedding.weight"]
        )
    # Sums in another order, which Adam carries on for two steps of 1e-3.
    torch.testing.assert_close(models[1], models[0], rtol=1e-3, atol=1e-4)


@pytest.fixture
def torchrun(workspace: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Return torchrun(run_id, *arguments): a long run of two ranks that has saved; its folder."""
    started: list[subprocess.Popen[bytes]] = []

    def start(run_id: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
        command = (
            *launcher,
            *("--nproc-per-node", "2", "-m", "biomamba.train", f"run_id={run_id}", *ARGUMENTS),
            *("trainer=cpu_2", "max_tokens=4_096_000", "trainer.val_check_interval=4_000"),
            *("callbacks.checkpoint.every_n_steps=2", *arguments),
        )
        with (workspace / f"{run_id}.err").open("w") as errors:
            process = subprocess.Popen(
                command,
                cwd=workspace,
                env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        started.append(process)
        run_dir = workspace / "runs" / "t" / run_id
        deadline = time.monotonic() + 240
        while not list((run_dir / "checkpoints").glob("*.ckpt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return process, run_dir

    yield start
    for process in started:
        process.kill()
        process.wait()


def processes_of(run_id: str) -> dict[int, int]:
    """Return the processes of a run, each with its parent."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"run_id={run_id}\0".encode() in (folder / "cmdline").read_bytes():
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                if stat[0] != "Z":
                    found[int(folder.name)] = int(stat[1])
    return found


def wait_until_gone(run_id: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := processes_of(run_id):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def is_locked(path: Path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("state", ["running", "one rank is stopped", "a data worker is stopped"])
def test_ranks_end_with_torchrun_whatever_they_do(torchrun: Any, state: str) -> None:
    run_id = f"killed_{state.split()[1] if ' ' in state else state}"
    process, run_dir = torchrun(run_id, "data.num_workers=1")
    found = processes_of(run_id)
    ranks = [pid for pid, parent in found.items() if parent == process.pid]
    workers = [pid for pid, parent in found.items() if parent in ranks]
    assert len(ranks) == 2
    if state != "running":
        os.kill((ranks if "rank" in state else workers)[0], signal.SIGSTOP)
        time.sleep(2)  # the others come to wait for it
    process.kill()
    wait_until_gone(run_id, 30)
    # A process that ends closes its files after it has lost its command line.
    deadline = time.monotonic() + 10
    while is_locked(run_dir / ".run.lock"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_torchrun_hands_on_what_ends_a_terminal(torchrun: Any, number: signal.Signals) -> None:
    run_id = number.name.lower()
    process, run_dir = torchrun(run_id)
    process.send_signal(number)
    process.wait(timeout=60)
    wait_until_gone(run_id, 30)
    errors = (run_dir.parents[2] / f"{run_id}.err").read_text()
    (saved,) = re.findall(rf"stopped: {number.name}: saved step (\d+) in ", errors)
    assert (run_dir / "checkpoints" / f"step_{int(saved):07d}.ckpt.json").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ranks_that_wait_for_a_stopped_data_worker_obey_a_signal(torchrun: Any) -> None:
    process, run_dir = torchrun("silent", "data.num_workers=1")
    found = processes_of("silent")
    ranks = [pid for pid, parent in found.items() if parent == process.pid]
    os.kill(next(pid for pid, parent in found.items() if parent == ranks[0]), signal.SIGSTOP)
    time.sleep(2)
    process.terminate()
    process.wait(timeout=60)
    wait_until_gone("silent", 30)
    assert (
        "SIGTERM while data worker 0 of 1 (process "
        in (run_dir.parents[2] / "silent.err").read_text()
    )
