"""A real SLURM of two virtual nodes on this machine, in a folder of its own."""

import contextlib
import getpass
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
NODES = ("node1", "node2")
GPUS = ("v100", "a100", "h100")
# A requeued job waits for its credential to expire (cred_expire, 120 s by default). The nodes
# claim more than the machine has (config_overrides): two nodes of eight GPUs of each kind.
# Lightning takes the port of the ranks from the number of the job, so clusters side by side count
# from different ones.
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
FirstJobId={first_job}
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
MessageTimeout=30
SlurmdTimeout=60
KillWait={kill_wait}
MinJobAge=3600
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
NODE = f"CPUs=64 RealMemory=500000 Gres={','.join(f'gpu:{gpu}:8' for gpu in GPUS)} State=UNKNOWN"
KILL_WAIT_SECONDS = 30
# Much longer than anything takes, also on a busy machine; what hangs is found all the same.
PATIENCE_SECONDS = 400.0


def command(*words: str | Path, timeout: float = 60.0) -> str:
    """Run a program that must succeed; return what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return (done.stdout + done.stderr).strip()


def wait_for(what: str, found: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Ask until the answer is true; return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {what}")


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    with contextlib.suppress(OSError):
        return not re.search(r"^State:\s+Z", status.read_text(), re.MULTILINE)
    return False


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [int(found.getsockname()[1]) for found in sockets]


class Cluster:
    """The daemons; everything that is started here is ended by its process number."""

    def __init__(self, folder: Path, first_job: int = 1) -> None:
        self.folder = folder
        self._first_job = first_job

    def start(self) -> None:
        """Start the daemons; SLURM_CONF must name the slurm.conf of the folder."""
        folder = self.folder
        (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge.key").chmod(0o400)
        names = ("key-file=key", "socket=socket", "log-file=log", "seed-file=seed")
        options = [f"--{name.replace('=', f'={folder}/munge.')}" for name in names]
        command("munged", "--force", *options, f"--pid-file={folder}/munged.pid")
        self._write_conf()
        (folder / "state").mkdir()
        command("slurmctld", "-c")
        for node in NODES:
            self.start_node(node)
        wait_for("two idle nodes", lambda: self.node_state("idle") == len(NODES), 30)

    def start_node(self, node: str) -> None:
        command("slurmd", "-N", node)

    def pid(self, daemon: str) -> int:
        return int((self.folder / f"{daemon}.pid").read_text())

    def node_state(self, state: str) -> int:
        """Return how many nodes are in a state."""
        words = ["sinfo", "-h", "-p", "main", "-t", state, "-o", "%D"]
        return int(subprocess.run(words, capture_output=True, text=True, check=False).stdout or 0)

    def stop(self) -> None:
        """End the jobs, then the daemons."""
        mine = ["-u", getpass.getuser()]
        subprocess.run(["scancel", "--state=PENDING", *mine], check=False)
        subprocess.run(["scancel", "--state=RUNNING", "-s", "KILL", *mine], check=False)
        subprocess.run(["scancel", *mine], check=False)
        with contextlib.suppress(AssertionError):
            wait_for("no job", lambda: not command("squeue", "-h", "-t", "R,CG"), 15)
        daemons = (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munged")
        pids = [self.pid(name) for name in daemons if (self.folder / f"{name}.pid").is_file()]
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            wait_for("the daemons' end", lambda: not any(map(is_alive, pids)), 10)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Return the daemons that live, and the processes of jobs: all know this slurm.conf."""
        ours = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if ours in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
        return found

    def _write_conf(self) -> None:
        folder = self.folder
        conf = CONF.format(
            folder=folder,
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            node=NODE,
            ports=free_ports(3),
            first_job=self._first_job,
            kill_wait=KILL_WAIT_SECONDS,
        )
        (folder / "slurm.conf").write_text(conf)
        gres = []
        for gpu in GPUS:
            gres.append(f"NodeName=node[1-2] Name=gpu Type={gpu} File={folder}/{gpu}-[0-7]\n")
            for number in range(8):
                (folder / f"{gpu}-{number}").touch()
        (folder / "gres.conf").write_text("".join(gres))
        # The names of the nodes do not resolve: all is on the loopback device.
        prolog = "#!/bin/sh\necho export MASTER_ADDR=127.0.0.1\necho export GLOO_SOCKET_IFNAME=lo\n"
        (folder / "prolog.sh").write_text(prolog)
        (folder / "prolog.sh").chmod(0o755)
