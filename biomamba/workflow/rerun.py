"""Forget finished steps, so that they run again; what they wrote is put aside, never removed."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from biomamba.config.wording import unknown_name
from biomamba.runtime.errors import ConfigError
from biomamba.workflow.record import descendants, record_path
from biomamba.workflow.step import Step

REPLACED_FOLDER = "replaced"


def chosen_steps(steps: Sequence[Step], names: Sequence[str]) -> list[str]:
    """Return the steps that `names` means and all that build upon them.

    Args:
        steps: All steps.
        names: Of steps, or of entries of the chain with all their steps.

    Raises:
        ConfigError: A name is unknown.
    """
    found: list[str] = []
    for name in names:
        meant = [step.name for step in steps if name in (step.name, step.template)]
        if not meant:
            known = {word for step in steps for word in (step.name, step.template)}
            raise ConfigError(f"rerun: {unknown_name('step', name, known)}")
        found += meant
    return descendants(steps, found)


def forget(steps: Sequence[Step], names: Sequence[str], folder: Path) -> list[Path]:
    """Remove the records of steps, and move their outputs aside; return where to."""
    chosen = [step for step in steps if step.name in names]
    # First of all: a record without its output would pass for a finished step.
    for step in reversed(chosen):
        record_path(folder, step.name).unlink(missing_ok=True)
    moved = []
    for step in chosen:
        if Path(step.output).exists():
            moved.append(_free_place(folder / REPLACED_FOLDER, step.name))
            moved[-1].parent.mkdir(parents=True, exist_ok=True)
            shutil.move(step.output, moved[-1])
    return moved


def _free_place(folder: Path, name: str) -> Path:
    number = 1
    while (folder / f"{name}-{number}").exists():
        number += 1
    return folder / f"{name}-{number}"
