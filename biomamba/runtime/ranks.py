"""Rank and world size of this process as the launcher set them.

Read from the environment, so that they are known before torch is imported and before the process
group exists. torchrun sets RANK and WORLD_SIZE. srun sets SLURM_PROCID and SLURM_NTASKS for each
task of a step; the batch script itself has them too, but no SLURM_STEP_ID.
"""

import os

from biomamba.runtime.errors import ConfigError

# Lightning takes a process of a job with one of these names for a shell, not for a task.
_SHELL_JOBS = ("bash", "interactive")


def rank() -> int:
    """Return the index of this process among all of the run, 0 without a launcher."""
    return _launched_int("RANK", "SLURM_PROCID", 0)


def local_rank() -> int:
    """Return the index of this process among those of its machine, 0 without a launcher."""
    return _launched_int("LOCAL_RANK", "SLURM_LOCALID", 0)


def world_size() -> int:
    """Return the number of processes of the run, 1 without a launcher."""
    return _launched_int("WORLD_SIZE", "SLURM_NTASKS", 1)


def is_rank_zero() -> bool:
    """Say whether this process writes the files and the log of the run."""
    return rank() == 0


def require_launcher() -> None:
    """Refuse to start as one process of a SLURM job that reserved several tasks.

    Lightning would wait for ranks that nobody starts.

    Raises:
        ConfigError: several tasks are reserved, and neither srun nor torchrun started this one.
    """
    num_tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    is_launched = "RANK" in os.environ or "SLURM_STEP_ID" in os.environ
    if num_tasks > 1 and not is_launched and os.environ.get("SLURM_JOB_NAME") not in _SHELL_JOBS:
        raise ConfigError(
            f"SLURM_NTASKS is {num_tasks}, but this process was started by neither srun nor "
            "torchrun; start the program with srun (see slurm/train.sbatch) or reserve one task"
        )


def _launched_int(torchrun_variable: str, slurm_variable: str, default: int) -> int:
    if torchrun_variable in os.environ:
        return int(os.environ[torchrun_variable])
    if "SLURM_STEP_ID" in os.environ:
        return int(os.environ.get(slurm_variable, default))
    return default
