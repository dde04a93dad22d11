"""Jobs that a signal, another job, a user or a fault stops, and that continue by themselves."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import Cluster, command, wait_for
from slurm_jobs import Job, Result, assert_resumed, train

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
Reference = Callable[[], Result]


def test_a_signal_saves_and_requeues_and_nothing_is_lost(
    workspace: Path, reference: Reference
) -> None:
    job = train(workspace, "signal", "data.num_workers=1")
    job.wait_until_training()
    job.signal("USR1")
    assert_resumed(job, reference(), "SIGUSR1")


def test_a_job_of_higher_priority_interrupts_and_nothing_is_lost(
    workspace: Path, reference: Reference
) -> None:
    job = train(workspace, "preempted", "data.num_workers=1")
    job.wait_until_training()
    command("sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    assert_resumed(job, reference(), "SIGTERM")


@pytest.mark.slurm_extra
def test_a_requeue_by_hand_saves_first_and_nothing_is_lost(
    workspace: Path, reference: Reference
) -> None:
    job = train(workspace, "by_hand")
    job.wait_until_training()
    command("scontrol", "requeue", job.number)
    assert_resumed(job, reference(), "SIGTERM")


def test_the_time_limit_saves_and_requeues_without_a_signal(
    workspace: Path, reference: Reference
) -> None:
    # SIGURG says nothing to a process. One more step as long as the pause, a save and the margin
    # do not fit into two minutes after it, however fast the machine is.
    margin = "callbacks.preemption.margin_seconds=60"
    job = train(workspace, "limit", margin, options=("--time=2", "--signal=23@1"))
    job.wait_until_training()
    pids = [*job.pids(0), *job.pids(1)]
    for number, pause in ((signal.SIGSTOP, 21.0), (signal.SIGCONT, 0.0)):
        for pid in pids:
            os.kill(pid, number)
        time.sleep(pause)
    # For the next start; this one has read the end of its job.
    command("scontrol", "update", f"JobId={job.number}", "TimeLimit=10")
    assert_resumed(job, reference(), "time limit")


def test_a_signal_during_the_imports_is_requeued(workspace: Path, reference: Reference) -> None:
    job = train(workspace, "early")
    wait_for("both ranks", lambda: all(is_listening(job, rank) for rank in (0, 1)))
    job.signal("USR1")
    assert job.finish() == "COMPLETED", job.text()
    assert job.field("Restarts") == "1"
    assert "SIGUSR1 before the first step; job" in job.log.read_text()
    assert [start["step"] for start in job.starts()] == [0]
    assert job.result() == reference()


def is_listening(job: Job, rank: int) -> bool:
    """Say whether the process of a rank has a handler of SIGUSR1."""
    pids = job.pids(rank)
    status = Path(f"/proc/{pids[0]}/status").read_text() if pids else "SigCgt:\t0\n"
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGUSR1 - 1) & 1)


@pytest.mark.slurm_extra
def test_a_job_that_may_not_be_requeued_fails_and_goes_on_when_it_is_submitted_again(
    workspace: Path, reference: Reference
) -> None:
    job = train(workspace, "submitted", options=("--no-requeue",))
    job.wait_until_training()
    job.signal("USR2")
    assert job.finish() == "FAILED", job.text()
    assert (job.field("ExitCode"), job.field("Restarts")) == ("75:0", "0")
    assert "cannot be requeued" in job.log.read_text()
    assert "submit the same command again to continue" in job.log.read_text()
    again = train(workspace, "submitted", options=("--no-requeue",))
    assert again.finish() == "COMPLETED", again.text()
    first, second = again.starts()
    assert f"interrupted: SIGUSR2: saved step {second['step']} in" in first["end"]
    assert again.result() == reference()


def wait_for_checkpoint(job: Job) -> int:
    """Return the step of the first checkpoint, which is durable."""
    wait_for("a checkpoint", lambda: list(job.run_dir.glob("checkpoints/step_*.ckpt")))
    return min(int(path.stem[5:]) for path in job.run_dir.glob("checkpoints/step_*.ckpt"))


def assert_went_on_behind_a_checkpoint(job: Job, reference: Result) -> None:
    assert job.finish() == "COMPLETED", job.text()
    first, second = job.starts()
    assert first["step"] == 0
    assert second["step"] > 0
    assert (second["slurm_restarts"], second["end"]) == (1, "finished")
    assert job.field("Restarts") == "1"
    assert job.result() == reference


def test_a_node_that_is_taken_down_costs_nothing(
    cluster: Cluster, workspace: Path, reference: Reference
) -> None:
    job = train(workspace, "down")
    wait_for_checkpoint(job)
    command("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=test")
    try:
        wait_for("the requeue", lambda: job.field("JobState") in ("PENDING", "COMPLETING"))
        wait_for("the end of the ranks", lambda: not job.pids(0) + job.pids(1))
    finally:
        # It comes back by itself when its daemon registers again, which may be now.
        words = ["scontrol", "update", "NodeName=node2", "State=RESUME"]
        subprocess.run(words, capture_output=True, check=False)
    assert_went_on_behind_a_checkpoint(job, reference())


@pytest.mark.slurm_extra
def test_a_node_that_falls_silent_costs_the_steps_since_the_last_checkpoint(
    cluster: Cluster, workspace: Path, reference: Reference
) -> None:
    job = train(workspace, "silent")
    wait_for_checkpoint(job)
    # As without power: nothing on the node answers or closes a connection any more.
    (rank,) = job.pids(1)
    daemon = int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])
    lost = [cluster.pid("slurmd-node2"), daemon, rank]
    for pid in lost:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_for("the requeue", lambda: job.field("JobState") != "RUNNING")
    finally:
        for pid in lost:
            os.kill(pid, signal.SIGKILL)
        wait_for("the end of the ranks", lambda: not job.pids(0) + job.pids(1))
        cluster.start_node("node2")
    assert_went_on_behind_a_checkpoint(job, reference())
