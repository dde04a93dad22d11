"""Rank and world size of this process as the launcher set them.

Read from the environment, so that they are known before torch is imported and before the process
group exists. torchrun sets RANK and WORLD_SIZE. srun sets SLURM_PROCID and SLURM_NTASKS for each
task of a step; the batch script itself has them too, but no SLURM_STEP_ID.
"""

import os
import random
from typing import Any

import numpy as np
import torch

from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_seed

# -------------------------------------------------------------------------------------------------
# One seed for every source of chance in a process.
# -------------------------------------------------------------------------------------------------


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (CPU and every GPU) of this process.

    All ranks take the same seed, so that they build the same weights; what must differ between
    ranks (data order, sampling) is drawn from generators of its own, keyed by position.

    Raises:
        ConfigError: the seed does not fit in 32 bits.
    """
    check_seed("seed", seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # libraries still draw from the global generator
    torch.manual_seed(seed)


# -------------------------------------------------------------------------------------------------
# The random states of a process as tensors and plain values.
# -------------------------------------------------------------------------------------------------


def rng_state() -> dict[str, Any]:
    """Return the states of Python, numpy and torch (CPU and every GPU)."""
    version, words, gauss = random.getstate()
    drawn: Any = np.random.get_state()  # noqa: NPY002
    name, keys, position, has_gauss, cached = drawn
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def load_rng_state(state: dict[str, Any]) -> None:
    """Set the states that `rng_state` returned; GPUs only if there are as many."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy_state = (name, keys.numpy().astype(np.uint32), position, has_gauss, cached)
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


# -------------------------------------------------------------------------------------------------
# Rank and world size of this process as the launcher set them.
# -------------------------------------------------------------------------------------------------

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
