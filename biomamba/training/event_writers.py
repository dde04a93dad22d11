"""The open event files of a run, for what Lightning's loggers cannot write."""

from typing import Any

import lightning
from lightning.pytorch.loggers import TensorBoardLogger


def has_tensorboard(trainer: lightning.Trainer) -> bool:
    """Say, on every rank alike, whether the run writes TensorBoard events."""
    return any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)


def writers_of(trainer: lightning.Trainer) -> list[Any]:
    """Return the SummaryWriter of each TensorBoardLogger; none on other ranks than zero."""
    if not trainer.is_global_zero:
        return []
    loggers = trainer.loggers
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
