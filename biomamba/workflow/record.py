"""The record of a finished step, and how to forget steps so that they run again."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from biomamba.config.messages import unknown_name
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import write_json
from biomamba.runtime.input_files import loads, read_text
from biomamba.workflow.chain import Step

STEPS_FOLDER = "steps"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The last end of a step.

    Attributes:
        step: Its name.
        command: Program and arguments.
        settings_sha256: Of the composed configuration.
        code: Version and commit.
        started: Time of the last start, UTC.
        seconds: All starts together.
        exit_code: Of the program; below zero: the signal that killed it.
    """

    step: str
    command: list[str]
    settings_sha256: str
    code: dict[str, Any]
    started: str
    seconds: float
    exit_code: int

    @property
    def is_finished(self) -> bool:
        """Say whether the step has done what it is for."""
        return self.exit_code == 0

    def write(self, folder: Path) -> None:
        """Keep the record in the folder of a chain."""
        write_json(record_path(folder, self.step), asdict(self))


def record_path(folder: Path, step: str) -> Path:
    """Return the file of a record."""
    return folder / STEPS_FOLDER / f"{step}.json"


def read_record(folder: Path, step: str) -> Record | None:
    """Return the record of a step; None if it never ended.

    Raises:
        DataError: The file is no record.
    """
    path = record_path(folder, step)
    try:
        content = loads(read_text(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} cannot be read ({error}); remove it to run the step again") from (
            error
        )
    names = {field.name for field in fields(Record)}
    if not isinstance(content, dict) or content.keys() != names:
        raise DataError(f"{path} is no record of a step; remove it to run the step again")
    return Record(**content)


def descendants(steps: Iterable[Step], names: Iterable[str]) -> list[str]:
    """Return the named steps and all that build upon them, in the order of `steps`."""
    found = set(names)
    for step in steps:
        if found & set(step.after):
            found.add(step.name)
    return [step.name for step in steps if step.name in found]


def finished_steps(steps: Sequence[Step], records: Mapping[str, Record]) -> set[str]:
    """Return the names of the steps that need not run.

    Raises:
        ConfigError: A finished step was made by another command, or upon one that is not finished.
    """
    done = {name for name, record in records.items() if record.is_finished}
    changed = [
        step.name
        for step in steps
        if step.name in done and list(step.command) != records[step.name].command
    ]
    if changed:
        first = next(step for step in steps if step.name == changed[0])
        follow = [name for name in descendants(steps, changed) if name not in changed]
        raise ConfigError(
            f"the command of {', '.join(changed)} is no longer the one that finished it: "
            f"{difference(records[first.name].command, list(first.command))}. "
            f"rerun=[{','.join(changed)}] runs {'it' if len(changed) == 1 else 'them'} again"
            f"{f', with what builds upon it: {_listed(follow)}' if follow else ''}; or give the "
            "old command"
        )
    for step in steps:
        lost = [name for name in step.after if name not in done]
        if step.name in done and lost:
            raise ConfigError(
                f"{step.name} is finished, but {_listed(lost)} before it is not: "
                f"rerun=[{','.join(lost)}] runs it and what builds upon it again"
            )
    return {step.name for step in steps if step.name in done}


def difference(old: Sequence[str], new: Sequence[str]) -> str:
    """Say in which words two commands differ."""
    gone = [word for word in old if word not in new]
    come = [word for word in new if word not in old]
    if not gone and not come:
        return "the same words in another order"
    return f"{' '.join(gone) or 'nothing'} became {' '.join(come) or 'nothing'}"


def _listed(names: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


# -------------------------------------------------------------------------------------------------
# Forget finished steps, so that they run again; what they wrote is moved aside, never removed.
# -------------------------------------------------------------------------------------------------

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
