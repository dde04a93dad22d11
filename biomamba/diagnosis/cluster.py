"""The programs of SLURM."""

import shutil
import subprocess
from collections.abc import Iterator

from biomamba.diagnosis.finding import Finding, ok, warning
from biomamba.runtime import slurm

_PROGRAMS = ("sbatch", "srun", "scontrol", "squeue")
_TIMEOUT_SECONDS = 5


def check_slurm() -> Iterator[Finding]:
    """Tell which programs of SLURM are there, and their version."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if len(missing) == len(_PROGRAMS):
        yield ok("slurm", "none here: start runs with python or torchrun")
        return
    if missing:
        yield warning(
            "slurm",
            f"{', '.join(missing)} cannot be found",
            "install slurm-client, or bind its programs into the container: a run needs scontrol "
            "to put itself back into the queue",
        )
    else:
        yield from _answer()


def _answer() -> Iterator[Finding]:
    is_there, version = _output("sbatch", "--version")
    if not is_there:
        yield warning(
            "slurm",
            f"sbatch fails: {version}",
            "submit from a node that is set up for it, or mend what the error names",
        )
        return
    job = slurm.job_id()
    where = f", inside job {job}" if job else ""
    is_up, text = _output("scontrol", "ping")
    if is_up:
        yield ok("slurm", f"{version}{where}; the controller answers")
    else:
        yield warning(
            "slurm",
            f"{version}{where}, but the controller does not answer: {text}",
            "run scontrol ping; look at SLURM_CONF and munge",
        )


def _output(*command: str) -> tuple[bool, str]:
    """Return whether a program succeeds, and the first line of what it says."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return False, type(error).__name__
    lines = (done.stdout + done.stderr).strip().splitlines()
    return done.returncode == 0, lines[0] if lines else "it says nothing"
