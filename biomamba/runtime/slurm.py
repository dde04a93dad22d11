"""What SLURM says about the job of this process, and the request to run it again.

Read from the environment and from `scontrol`. Answers of commands are advice: where SLURM cannot
be reached (in a container without its programs, say) the answer is None or a sentence that says so.
"""

import os
import re
import subprocess
from datetime import datetime

from biomamba.runtime import signals

_TIMEOUT_SECONDS = 20
_AGAIN = "start the same command again to continue"
_FIELD = re.compile(r"(\w+)=(\S+)")


def job_id() -> str | None:
    """Return the number of the SLURM job that this process belongs to; None outside SLURM.

    For a task of an array as 7_3: the plain number of one of the tasks is that of the whole array,
    and a command that names it reaches every task.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restart_count() -> int:
    """Return how often SLURM has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def job_fields() -> dict[str, str]:
    """Return the fields of `scontrol show job`; empty if it does not answer."""
    job = job_id()
    if job is None:
        return {}
    code, text = _scontrol("-o", "show", "job", job)
    return dict(_FIELD.findall(text)) if code == 0 else {}


def end_time() -> float | None:
    """Return when SLURM will end the job, in seconds since the epoch; None if it never will."""
    if job_id() is None:
        return None
    if (known := os.environ.get("SLURM_JOB_END_TIME", "")).isdigit():
        return float(known)
    try:
        return datetime.fromisoformat(job_fields().get("EndTime", "Unknown")).timestamp()
    except ValueError:
        return None


def go_on(number: int) -> str:
    """Say how a run that a signal stopped continues; SLURM is asked unless a person stopped it."""
    return _AGAIN if number in signals.BY_HAND else requeue()


def requeue() -> str:
    """Put the job back into the queue unless its end is wanted; return what happened in words.

    Preemption and the signal before the time limit find the job RUNNING. A job that the user
    cancels is COMPLETING, and so is one that SLURM itself requeues: neither may be touched.
    """
    job = job_id()
    if job is None:
        return _AGAIN
    state = job_fields().get("JobState")
    if state is None:
        return f"scontrol does not answer: run 'scontrol requeue {job}' to continue"
    if state != "RUNNING":
        return f"job {job} is {state}, so it is left to SLURM"
    code, text = _scontrol("requeue", job)
    if code == 0:
        return f"job {job} is in the queue again"
    return (
        f"job {job} cannot be requeued ({text.strip()}): submit the same command again to continue"
    )


def _scontrol(*arguments: str) -> tuple[int, str]:
    try:
        done = subprocess.run(
            ["scontrol", *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout + done.stderr
