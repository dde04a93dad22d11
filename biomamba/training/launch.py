"""Refuse a launch that would fail later, and explain what ended a run from outside."""

import errno
import logging
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch.distributed import DistError

from biomamba.runtime.errors import ConfigError, TrainingError
from biomamba.runtime.ranks import require_launcher, world_size

# fp32 master weights always: the true half precisions train Mamba2 into divergence
# (state-spaces/mamba README, "Precision").
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
# Hints that a user of this package can do nothing about, or that it answers in its own words.
_IRRELEVANT_WARNINGS = (
    "The .srun. command is available on your system",
    ".isinstance.treespec, LeafSpec.. is deprecated",
    "The '.*_dataloader' does not have many workers",
    "The number of training batches .* is smaller than the logging interval",
    "FSDP2-wrapped module .* returned a view tensor",  # a state; nothing is written into it
)
# Arguments of Lightning's Trainer that this package sets from a key of its own.
_KEYS_INSTEAD = {
    "max_steps": "max_tokens",
    "accumulate_grad_batches": "tokens_per_step and data.budget.micro_batch_size",
    "gradient_clip_val": "objective.max_grad_norm",
    "gradient_clip_algorithm": "objective.max_grad_norm",
    "default_root_dir": "paths.run_dir",
    "logger": "the group logger",
    "callbacks": "the group callbacks",
    "plugins": "trainer.precision and trainer.strategy",
    "enable_checkpointing": "callbacks.checkpoint",
    "enable_progress_bar": "callbacks.progress",
    "max_time": "max_tokens, or the time limit of the SLURM job",
    "min_steps": "max_tokens",
    "min_epochs": "max_tokens",
    "limit_train_batches": "max_tokens",
    "overfit_batches": "max_tokens and data.mixture",
    "fast_dev_run": "max_tokens",
    "limit_val_batches": "data.max_val_documents",
    "limit_test_batches": "evaluation.max_documents of biomamba.evaluate",
    "limit_predict_batches": "evaluation.max_documents of biomamba.evaluate",
    "reload_dataloaders_every_n_epochs": "max_tokens",
    "barebones": "logger=[] and callbacks.<name>=null",
}
# Values that the unit of everything, the step of a run, depends on.
_FIXED_VALUES: Mapping[str, object] = {
    "max_epochs": 1,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}


def quiet_lightning() -> None:
    """Keep Lightning's advertisements and inapplicable hints out of the output."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in _IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def check_trainer_keys(trainer: Mapping[str, object]) -> None:
    """Check the arguments of Lightning's Trainer.

    Raises:
        ConfigError: For arguments that would be overruled, or end a run before its last step.
    """
    misplaced = [
        f"trainer.{key} (use {_KEYS_INSTEAD[key]})" for key in trainer if key in _KEYS_INSTEAD
    ]
    if misplaced:
        raise ConfigError(
            "these keys are not allowed, because a run takes exactly the steps of its budget: "
            f"{', '.join(misplaced)}"
        )
    for key, value in _FIXED_VALUES.items():
        if key in trainer and trainer[key] != value:
            shown = "null" if value is None else str(value).lower()
            raise ConfigError(f"trainer.{key} is {trainer[key]!r}; allowed is {shown} only")
    interval = trainer.get("val_check_interval")
    is_steps = isinstance(interval, int) and not isinstance(interval, bool) and interval >= 1
    if interval is not None and not is_steps:
        raise ConfigError(
            f"trainer.val_check_interval is {interval!r}; it must be a number of optimizer steps, "
            "at least 1"
        )


def check_precision(precision: str) -> None:
    """Raise ConfigError unless the weights are kept in fp32."""
    if precision not in _PRECISIONS:
        raise ConfigError(
            f"trainer.precision: got {precision!r}, allowed are {', '.join(_PRECISIONS)} "
            "(master weights stay in fp32)"
        )


def product_dtype_of(precision: str) -> torch.dtype:
    """Return the dtype that matrix products run in at a `trainer.precision`."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision, torch.float32)


def check_launch(devices: int, num_nodes: int) -> None:
    """Raise ConfigError unless a launcher started as many processes as the trainer expects.

    Lightning would otherwise start the missing ranks itself by running the command again, which
    gives each rank its own configuration and run folder.
    """
    if not isinstance(devices, int):
        raise ConfigError(f"trainer.devices must be a number of devices, got {devices!r}")
    require_launcher()
    expected, started = devices * num_nodes, world_size()
    if started != expected:
        raise ConfigError(
            f"trainer.devices x trainer.num_nodes is {devices} x {num_nodes} = {expected}, but "
            f"{started} process(es) were started: use "
            f"torchrun --nproc-per-node {devices} -m biomamba.train ..., or srun with "
            f"--ntasks-per-node={devices}"
        )


def check_tasks(tasks: Collection[str], data_keys: Collection[str]) -> None:
    """Raise ConfigError if tasks were chosen and the data does not learn tasks."""
    if tasks and "tasks" not in data_keys:
        raise ConfigError(
            f"task: {', '.join(sorted(tasks))} chosen, but this data does not learn tasks; add "
            "data=instruct max_tokens=null data.budget.epochs=3, or leave the tasks out"
        )


def check_run_folder(overrides: Sequence[str]) -> None:
    """Raise ConfigError if several processes could each name another run folder.

    The default run_id is the job's number under SLURM and the time otherwise, which differs from
    process to process.
    """
    is_named = any(override.startswith(("run_id=", "paths.run_dir=")) for override in overrides)
    if world_size() > 1 and not is_named and "SLURM_JOB_ID" not in os.environ:
        raise ConfigError(
            f"run_id: {world_size()} processes need the same run folder; add run_id=<name>"
        )


# -------------------------------------------------------------------------------------------------
# Say in one sentence what ended a run from outside, and that it can continue.
# -------------------------------------------------------------------------------------------------

_AGAIN = "the same command continues after the newest checkpoint"
# gloo raises bare RuntimeErrors where NCCL and the store have a class of their own.
_LOST_RANK = re.compile(r"gloo/transport|Connection (closed|reset) by peer|Timed out waiting")
_DEAD_WORKER = "DataLoader worker (pid"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def explained_faults() -> Iterator[None]:
    """Turn the errors of a dead data worker, a lost rank and a full disk into TrainingError.

    Raises:
        TrainingError: With the error as its cause; other errors are left alone.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise TrainingError(f"{reason}; {_AGAIN}") from error


def _reason(error: RuntimeError | OSError) -> str | None:
    words = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, OSError):
        if error.errno not in _NO_ROOM:
            return None
        return f"cannot write {error.filename or 'a file of the run'} ({error.strerror}): make room"
    if _DEAD_WORKER in words:
        return (
            f"a process that loads data died ({words}): usually the machine ran out of memory, and "
            "fewer data.num_workers need less"
        )
    if isinstance(error, DistError) or _LOST_RANK.search(str(error)):
        return (
            f"lost another rank of the run ({words}): it died or hangs, and the first error is "
            "in its own output"
        )
    return None
