"""The questions to SLURM, answered by a false scontrol."""

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from biomamba.runtime import slurm

RUNNING = "JobId=7 JobName=t JobState=RUNNING EndTime=2026-01-02T03:04:05 PreemptTime=None"
VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_END_TIME",
    "SLURM_RESTART_COUNT",
)
Job = Callable[..., Path]


@pytest.fixture(autouse=True)
def _outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Return job(fields, code), which puts this process into job 7 and returns scontrol's log."""

    def _job(fields: str, requeue_code: int = 0) -> Path:
        log = tmp_path / "log"
        log.touch()
        script = tmp_path / "scontrol"
        script.write_text(
            f'#!/bin/sh\necho "$@" >> {log}\n'
            f'if [ "$1" = requeue ]; then echo disabled >&2; exit {requeue_code}; fi\n'
            f"echo '{fields}'\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        return log

    return _job


def requeued(log: Path) -> bool:
    return "requeue 7" in log.read_text().splitlines()


def test_outside_slurm_there_is_no_job_and_no_end() -> None:
    assert (slurm.job_id(), slurm.end_time(), slurm.restart_count()) == (None, None, 0)
    assert slurm.job_fields() == {}
    assert "same command" in slurm.requeue()


def test_a_running_job_is_requeued(job: Job) -> None:
    log = job(RUNNING)
    assert "in the queue again" in slurm.requeue()
    assert requeued(log)


def test_a_task_of_an_array_names_itself_and_no_other_task(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One of the tasks has the number of the array, which would requeue all of them.
    log = job(RUNNING)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert "job 7_3 is in the queue again" in slurm.requeue()
    assert log.read_text().splitlines() == ["-o show job 7_3", "requeue 7_3"]


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING", "TIMEOUT"])
def test_a_job_whose_end_is_decided_is_left_alone(job: Job, state: str) -> None:
    log = job(RUNNING.replace("RUNNING", state))
    assert state in slurm.requeue()
    assert not requeued(log)


def test_a_refused_requeue_says_why_and_what_to_do(job: Job) -> None:
    job(RUNNING, requeue_code=1)
    assert "disabled" in slurm.requeue()
    assert "submit the same command again" in slurm.requeue()


def test_without_scontrol_the_command_is_named(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job(RUNNING)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "scontrol requeue 7" in slurm.requeue()
    assert slurm.end_time() is None


def test_the_end_is_taken_from_the_environment_before_scontrol(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = job(RUNNING)
    assert slurm.end_time() == datetime(2026, 1, 2, 3, 4, 5).timestamp()
    asked = log.read_text()
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1700000000")
    assert slurm.end_time() == 1_700_000_000.0
    assert log.read_text() == asked


def test_a_job_without_a_limit_has_no_end(job: Job) -> None:
    job("JobId=7 JobState=RUNNING EndTime=Unknown")
    assert slurm.end_time() is None


def test_restarts_are_counted_by_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert slurm.restart_count() == 3
