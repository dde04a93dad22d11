"""Jobs of the shipped scripts, and what their runs leave behind."""

import contextlib
import hashlib
import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from slurm_cluster import command, wait_for

from biomamba.data.ledger import Ledger

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = CHECKOUT / "slurm"
NUM_STEPS = 160
CHECKPOINT_STEPS = 25
# What a small run on CPUs is; the scripts ask for GPUs.
SMALL_RUN = (
    "name=t",
    f"max_tokens={NUM_STEPS * 1_024}",
    "tokens_per_step=1_024",
    "trainer.val_check_interval=50",
    f"callbacks.checkpoint.every_n_steps={CHECKPOINT_STEPS}",
    "data.max_val_documents=4",
    "data.budget.seq_len=128",
    "data.budget.micro_batch_size=4",
    "callbacks.preemption.margin_seconds=5",
    "callbacks.progress=null",
    "model.config.d_model=64",
    "model.config.n_layer=2",
)
ON_CPU = ("--cpus-per-task=1", "--gres=none", "--mem=1G", "--time=10")
ON_TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", *ON_CPU)
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
Result = tuple[str, list[Any]]


class Job:
    """A submitted run.

    Args:
        number: Of the job; of a task of an array as SLURM writes it, 7_1.
        log: What it prints.
        run_dir: Its run folder.
    """

    def __init__(self, number: str, log: Path, run_dir: Path) -> None:
        self.number, self.log, self.run_dir = number, log, run_dir

    def field(self, name: str) -> str:
        """Return what `scontrol show job` says; a job of an array has a number of its own."""
        fields = command("scontrol", "-o", "show", "job", self.number)
        found = re.search(rf"\b{name}=(\S+)", fields)
        assert found, fields
        return found[1]

    def starts(self) -> list[dict[str, Any]]:
        """Return the starts that the run has noted."""
        with contextlib.suppress(OSError, ValueError):
            return list(json.loads((self.run_dir / "run.json").read_text()).get("starts", []))
        return []

    def pids(self, rank: int, what: bytes = b"biomamba.train") -> list[int]:
        """Return the processes of a rank."""
        wanted = {f"SLURM_JOB_ID={self.field('JobId')}", f"SLURM_PROCID={rank}", "SLURM_STEP_ID=0"}
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_ours = what in (path / "cmdline").read_bytes()
                variables = (path / "environ").read_text(errors="replace").split("\0")
                if is_ours and wanted <= set(variables):
                    found.append(int(path.name))
        return found

    def wait_until_training(self) -> None:
        wait_for(f"first step of {self.number}\n{self.text()}", self.starts)

    def signal(self, name: str) -> None:
        """Send a signal to all ranks; what came of it is in the record of the run."""
        subprocess.run(["scancel", f"--signal={name}", self.number], check=False)

    def text(self) -> str:
        return self.log.read_text(errors="replace")[-6_000:] if self.log.exists() else ""

    def finish(self) -> str:
        """Wait for the end of the job; return its state."""
        wait_for(f"end of {self.number}", lambda: self.field("JobState") in ENDS)
        return self.field("JobState")

    def result(self) -> Result:
        return result_of(self.run_dir)


def result_of(run_dir: Path, num_steps: int = NUM_STEPS) -> Result:
    """Return the hash of the weights of a run and what its ledger holds."""
    weights = (run_dir / "model" / "model.safetensors").read_bytes()
    ledger = Ledger(run_dir / "ledger")
    assert (ledger.num_steps, ledger.gaps, ledger.num_unfinished_steps) == (num_steps, [], 0)
    return hashlib.sha256(weights).hexdigest(), np.concatenate(list(ledger.chunks())).tolist()


def sbatch(script: str, workspace: Path, log: str, options: Sequence[str], *words: str) -> str:
    """Submit a shipped script; return the number of the job."""
    where = (f"--chdir={workspace}", f"--output={workspace / log}")
    return command("sbatch", "--parsable", *options, *where, SCRIPTS / script, *words)


def train(workspace: Path, run_id: str, *overrides: str, options: Sequence[str] = ()) -> Job:
    """Submit a run on two nodes."""
    words = (*SMALL_RUN, "trainer=cpu_2", f"run_id={run_id}", *overrides)
    number = sbatch("train.sbatch", workspace, f"{run_id}.log", (*ON_TWO_NODES, *options), *words)
    return Job(number, workspace / f"{run_id}.log", workspace / "runs" / "t" / run_id)


def assert_resumed(job: Job, reference: Result, reason: str) -> list[dict[str, Any]]:
    """Check that the job was requeued once, continued where it stopped, and lost nothing."""
    assert job.finish() == "COMPLETED", job.text()
    first, second = job.starts()
    assert first["step"] == 0
    assert 0 < second["step"] < NUM_STEPS
    assert f"interrupted: {reason}: saved step {second['step']} in" in first["end"]
    assert (first["world_size"], second["slurm_restarts"], second["end"]) == (2, 1, "finished")
    assert job.field("Restarts") == "1"
    assert f"continuing after step {second['step']} with" in job.log.read_text()
    assert job.result() == reference
    return [first, second]
