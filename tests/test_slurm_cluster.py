"""Runs under a real SLURM of two nodes on this machine: stopped, requeued, resumed, killed.

Needs `apt-get install --no-install-recommends slurmctld slurmd slurm-client munge`; without them
the tests are skipped, or fail if BIOMAMBA_REQUIRE_SLURM=1.
"""

import contextlib
import getpass
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomamba.data.ledger import Ledger

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]

CHECKOUT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((CHECKOUT / "slurm").glob("*.sbatch"))
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
DAEMONS = ("slurmd-node1", "slurmd-node2", "slurmctld", "munged")
NUM_STEPS = 80
TRAIN = (
    "name=t",
    "trainer=cpu_2",
    "trainer.devices=1",
    "trainer.num_nodes=2",
    f"max_tokens={NUM_STEPS * 1_024}",
    "tokens_per_step=1_024",
    "trainer.val_check_interval=50",
    "data.max_val_documents=4",
    "data.budget.seq_len=128",
    "data.budget.micro_batch_size=4",
    "callbacks.preemption.margin_seconds=5",
)
ON_CPUS = (
    "--nodes=2",
    "--ntasks-per-node=1",
    "--cpus-per-task=1",
    "--gres=none",
    "--mem=1G",
    "--time=10",
)
# A requeued job waits for its credential to expire (cred_expire, 120 s by default). The nodes
# claim more than the machine has (config_overrides): two nodes of eight V100.
CONF = """
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/prolog.sh
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
ReturnToService=2
KillWait=30
MinJobAge=600
JobRequeue=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} {node}
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} {node}
PartitionName=main Nodes=node[1-2] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=node[1-2] PriorityTier=10 PreemptMode=OFF
"""
NODE = "CPUs=64 RealMemory=500000 Gres=gpu:v100:8 State=UNKNOWN"


def command(*words: str | Path, timeout: float = 60.0) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return (done.stdout + done.stderr).strip()


def wait_for(what: str, found: Callable[[], Any], seconds: float = 180.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s: {what}")


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [int(found.getsockname()[1]) for found in sockets]


def start_daemons(folder: Path) -> None:
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    files = {"key": "key", "socket": "socket", "log": "log", "seed": "seed"}
    options = [f"--{name}-file={folder}/munge.{end}" for name, end in files.items()]
    options[1] = f"--socket={folder}/munge.socket"
    command("munged", "--force", *options, f"--pid-file={folder}/munged.pid")
    host = socket.gethostname().split(".")[0]
    names = {"folder": folder, "host": host, "user": getpass.getuser(), "node": NODE}
    (folder / "slurm.conf").write_text(CONF.format(ports=free_ports(3), **names))
    for number in range(8):
        (folder / f"nvidia{number}").touch()
    gres = f"NodeName=node[1-2] Name=gpu Type=v100 File={folder}/nvidia[0-7]\n"
    (folder / "gres.conf").write_text(gres)
    # The names of the nodes do not resolve: all is on the loopback device.
    prolog = "#!/bin/sh\necho export MASTER_ADDR=127.0.0.1\necho export GLOO_SOCKET_IFNAME=lo\n"
    (folder / "prolog.sh").write_text(prolog)
    (folder / "prolog.sh").chmod(0o755)
    (folder / "state").mkdir()
    command("slurmctld", "-c")
    for node in ("node1", "node2"):
        command("slurmd", "-N", node)
    wait_for("two idle nodes", lambda: "2" in sinfo().split(), 30)


def sinfo() -> str:
    words = ["sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def stop_daemons(folder: Path) -> None:
    """Stop exactly what was started here: the jobs, then the daemons by their numbers."""
    for state in ("RUNNING", "PENDING"):
        words = ["scancel", f"--state={state}", "-u", getpass.getuser()]
        subprocess.run([*words, "-s", "KILL"] if state == "RUNNING" else words, check=False)
    with contextlib.suppress(AssertionError):
        wait_for("no job", lambda: not command("squeue", "-h", "-t", "R,CG"), 15)
    files = [folder / f"{name}.pid" for name in DAEMONS]
    pids = [int(file.read_text()) for file in files if file.is_file()]
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        for pid in filter(is_alive, pids):
            os.kill(pid, number)
        with contextlib.suppress(AssertionError):
            wait_for("the daemons' end", lambda: not any(map(is_alive, pids)), patience)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and not re.search(r"^State:\s+Z", status.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """Start two nodes; return the folder of the daemons."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        reason = f"SLURM is not installed: {', '.join(missing)} not found"
        if os.environ.get("BIOMAMBA_REQUIRE_SLURM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith("SLURM")]:
            patch.delenv(variable)
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("BIOMAMBA_PYTHON", sys.executable)
        try:
            start_daemons(folder)
            yield folder
        finally:
            stop_daemons(folder)
            shutil.rmtree(folder, ignore_errors=True)


class Job:
    """A run submitted with the shipped script."""

    def __init__(self, workspace: Path, run_id: str, *overrides: str, sbatch: str = "") -> None:
        self.run_dir = workspace / "runs" / "t" / run_id
        self.log = workspace / f"{run_id}.log"
        options = (*ON_CPUS, f"--chdir={workspace}", f"--output={self.log}", *sbatch.split())
        script = CHECKOUT / "slurm" / "train.sbatch"
        words = ("sbatch", "--parsable", *options, script, *TRAIN, f"run_id={run_id}", *overrides)
        self.number = command(*words)

    def field(self, name: str) -> str:
        fields = command("scontrol", "-o", "show", "job", self.number)
        found = re.search(rf"\b{name}=(\S+)", fields)
        assert found, fields
        return found[1]

    def starts(self) -> list[dict[str, Any]]:
        with contextlib.suppress(OSError, ValueError):
            return list(json.loads((self.run_dir / "run.json").read_text()).get("starts", []))
        return []

    def pids(self, rank: int) -> list[int]:
        """Return the processes of a rank."""
        wanted = {f"SLURM_JOB_ID={self.number}", f"SLURM_PROCID={rank}"}
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_train = b"biomamba.train" in (path / "cmdline").read_bytes()
                variables = (path / "environ").read_text(errors="replace").split("\0")
                if is_train and wanted <= set(variables) and "SLURM_STEP_ID=0" in variables:
                    found.append(int(path.name))
        return found

    def wait_until_training(self) -> None:
        wait_for(f"first step\n{self.text()}", self.starts)
        time.sleep(1.0)

    def text(self) -> str:
        return self.log.read_text(errors="replace")[-6_000:] if self.log.exists() else ""

    def finish(self, seconds: float = 240.0) -> str:
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        wait_for("end of the job", lambda: self.field("JobState") in ends, seconds)
        return self.field("JobState")

    def result(self) -> tuple[str, list[Any]]:
        """Return the hash of the weights and what the ledger holds."""
        weights = (self.run_dir / "model" / "model.safetensors").read_bytes()
        ledger = Ledger(self.run_dir / "ledger")
        assert (ledger.num_steps, ledger.gaps, ledger.num_unfinished_steps) == (NUM_STEPS, [], 0)
        return hashlib.sha256(weights).hexdigest(), np.concatenate(list(ledger.chunks())).tolist()


@pytest.fixture(scope="module")
def workspace(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared embedded corpora."""
    folder = tmp_path_factory.mktemp("workspace")
    subprocess.run([sys.executable, "-m", "biomamba.prepare"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def reference(workspace: Path) -> tuple[str, list[Any]]:
    """What an uninterrupted run of two nodes ends with."""
    job = Job(workspace, "reference")
    assert job.finish() == "COMPLETED", job.text()
    assert [start["step"] for start in job.starts()] == [0]
    return job.result()


def assert_resumed(job: Job, reference: tuple[str, list[Any]], reason: str) -> None:
    """Check that the job was requeued once, went on where it stopped, and lost nothing."""
    assert job.finish() == "COMPLETED", job.text()
    first, second = job.starts()
    assert first["step"] == 0
    assert 0 < second["step"] < NUM_STEPS
    assert f"interrupted: {reason}: saved step {second['step']} in" in first["end"]
    assert (first["world_size"], second["slurm_restarts"], second["end"]) == (2, 1, "finished")
    assert job.field("Restarts") == "1"
    assert job.result() == reference


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.usefixtures("cluster")
def test_slurm_accepts_every_script_as_it_is(path: Path) -> None:
    assert "to start at" in command("sbatch", "--test-only", path)


def test_a_signal_saves_and_requeues_and_nothing_is_lost(
    workspace: Path, reference: tuple[str, list[Any]]
) -> None:
    job = Job(workspace, "signal", "data.num_workers=1")
    job.wait_until_training()
    command("scancel", "--signal=USR1", job.number)
    assert_resumed(job, reference, "SIGUSR1")


def test_a_job_of_higher_priority_interrupts_and_nothing_is_lost(
    workspace: Path, reference: tuple[str, list[Any]]
) -> None:
    job = Job(workspace, "preempted", "data.num_workers=1")
    job.wait_until_training()
    command("sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    assert_resumed(job, reference, "SIGTERM")


def test_the_time_limit_saves_and_requeues_without_a_signal(
    workspace: Path, reference: tuple[str, list[Any]]
) -> None:
    # SIGURG says nothing to a process. A pause of 30 s makes the longest step so long that another
    # one does not fit into the two minutes, however fast the machine is.
    options = ("callbacks.preemption.margin_seconds=30", "data.num_workers=1")
    job = Job(workspace, "limit", *options, sbatch="--time=2 --signal=23@1")
    job.wait_until_training()
    pids = [*job.pids(0), *job.pids(1)]
    for number, pause in ((signal.SIGSTOP, 30.0), (signal.SIGCONT, 0.0)):
        for pid in pids:
            os.kill(pid, number)
        time.sleep(pause)
    # For the next start; this one has read the end of its job.
    command("scontrol", "update", f"JobId={job.number}", "TimeLimit=10")
    assert_resumed(job, reference, "time limit")


def test_a_cancelled_job_stays_cancelled_and_keeps_its_checkpoint(workspace: Path) -> None:
    job = Job(workspace, "cancelled")
    job.wait_until_training()
    command("scancel", job.number)
    assert job.finish() == "CANCELLED"
    wait_for("the end of the ranks", lambda: not job.pids(0) + job.pids(1))
    assert "interrupted: SIGTERM: saved step" in job.starts()[0]["end"]
    time.sleep(8.0)  # longer than a requeued job waits
    assert (job.field("JobState"), job.field("Restarts")) == ("CANCELLED", "0")


def test_a_signal_during_the_imports_is_requeued(
    workspace: Path, reference: tuple[str, list[Any]]
) -> None:
    job = Job(workspace, "early")
    wait_for("both ranks", lambda: job.pids(0) and job.pids(1))
    time.sleep(0.7)  # the interpreter itself must be up
    command("scancel", "--signal=USR1", job.number)
    assert job.finish() == "COMPLETED", job.text()
    assert job.field("Restarts") == "1"
    assert "SIGUSR1 before the first step; job" in job.log.read_text()
    assert [start["step"] for start in job.starts()] == [0]
    assert job.result() == reference


def test_a_killed_rank_ends_the_job_with_an_error(workspace: Path) -> None:
    job = Job(workspace, "killed")
    job.wait_until_training()
    (pid,) = job.pids(1)
    os.kill(pid, signal.SIGKILL)
    assert job.finish(60) == "FAILED", job.text()
    assert not job.field("ExitCode").startswith("0:")
