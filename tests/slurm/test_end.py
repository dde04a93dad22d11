"""Jobs that shall end: cancelled by the user, a rank lost, started in a wrong way."""

import os
import signal
import time
from pathlib import Path

import pytest
from slurm_cluster import command, wait_for
from slurm_jobs import ON_CPU, Job, train

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_a_cancelled_job_stays_cancelled_and_keeps_its_checkpoint(workspace: Path) -> None:
    job = train(workspace, "cancelled")
    job.wait_until_training()
    command("scancel", job.number)
    assert job.finish() == "CANCELLED"
    wait_for("the end of the ranks", lambda: not job.pids(0) + job.pids(1))
    assert "interrupted: SIGTERM: saved step" in job.starts()[0]["end"]
    assert list(job.run_dir.glob("checkpoints/step_*.ckpt"))
    time.sleep(8.0)  # longer than a requeued job waits
    assert (job.field("JobState"), job.field("Restarts")) == ("CANCELLED", "0")


def test_a_killed_rank_ends_the_job_with_an_error(workspace: Path) -> None:
    job = train(workspace, "killed")
    job.wait_until_training()
    (pid,) = job.pids(1)
    os.kill(pid, signal.SIGKILL)
    assert job.finish() == "FAILED", job.text()
    assert not job.field("ExitCode").startswith("0:")
    assert job.field("Restarts") == "0"


def test_several_tasks_without_srun_fail_at_once(workspace: Path) -> None:
    log = workspace / "no_srun.log"
    options = (*ON_CPU, "--ntasks=2", f"--chdir={workspace}", f"--output={log}")
    program = f"{os.environ['BIOMAMBA_PYTHON']} -m biomamba.train run_id=no_srun"
    number = command("sbatch", "--parsable", *options, "--wrap", program)
    job = Job(number, log, workspace / "runs" / "train" / "no_srun")
    assert job.finish() == "FAILED", job.text()
    assert job.field("ExitCode") == "2:0"
    assert "SLURM_NTASKS is 2, but this process was started by neither srun" in log.read_text()
