"""Which folders a report is made of: named one by one, by a pattern, or by a folder above them."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from biomamba.config.wording import check_all
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.timing.records import EFFICIENCY_FILE

RUN_RECORD, RESULTS, TASK_RESULTS = "run.json", "results.jsonl", "task_results.jsonl"
RECORDS = (RUN_RECORD, RESULTS, TASK_RESULTS, EFFICIENCY_FILE)
_SETTINGS = ".hydra"  # what a program writes before anything else
_TRAINED = "tensorboard"
_PATTERN = "*?["


@dataclass
class Folders:
    """Folders with records, in the order in which they were named; those without any are told of.

    unfinished are the folders of programs that have not written their records (yet).
    """

    found: list[Path] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)


def find_folders(named: Sequence[Path]) -> Folders:
    """Return the folders with records that are named, match a pattern, or lie below a folder.

    A folder that is found in several ways counts once.

    Raises:
        ConfigError: Nothing is named, or something is named twice.
        DataError: Something that is named holds no run and no evaluation; a ConfigError tells of
            several.
    """
    if not named:
        raise ConfigError("runs is empty; name folders as in runs=[runs/a,runs/b]")
    if len({path.absolute() for path in named}) < len(named):
        raise ConfigError(f"runs names a folder twice: {', '.join(map(str, named))}")
    folders = Folders()
    seen: set[Path] = set()
    check_all("runs", [partial(_find, path, folders, seen) for path in named])
    return folders


def records_of(folder: Path) -> set[str]:
    """Return the names of the records in a folder."""
    return {name for name in RECORDS if (folder / name).is_file()}


def _find(named: Path, folders: Folders, seen: set[Path]) -> None:
    places = _matches(named)
    num_before = len(seen)
    for place in places:
        for folder in _below(place):
            if folder.resolve() in seen:
                num_before = -1  # it held something, though nothing new
                continue
            seen.add(folder.resolve())
            (folders.found if records_of(folder) else folders.unfinished).append(folder)
    if not places or (len(seen) == num_before and num_before >= 0):
        raise DataError(
            f"{named}: {_what_is_there(named)}; allowed are folders that biomamba.train "
            f"({RUN_RECORD}), biomamba.evaluate ({RESULTS}, {TASK_RESULTS}) or biomamba.efficiency "
            f"({EFFICIENCY_FILE}) wrote, folders above them, and patterns such as runs/eval/*"
        )


def _matches(named: Path) -> list[Path]:
    if named.is_dir():
        return [named]
    if not any(sign in str(named) for sign in _PATTERN):
        return []
    found = sorted(glob.glob(str(named), recursive=True))  # noqa: PTH207 - Path.glob: no absolute
    return [Path(path) for path in found if Path(path).is_dir()]


def _below(place: Path) -> Iterator[Path]:
    """Yield the folder itself, or those below it; nothing is looked for inside of one."""
    visited: set[str] = set()
    for root, names, _ in os.walk(place, followlinks=True):
        real = os.path.realpath(root)
        if real in visited:  # a link that leads back
            names.clear()
            continue
        visited.add(real)
        names[:] = sorted(name for name in names if not name.startswith("."))
        folder = Path(root)
        if records_of(folder) or _is_unfinished(folder):
            names.clear()
            yield folder


def _is_unfinished(folder: Path) -> bool:
    """Whether a training run began here and has written no record."""
    return (folder / _SETTINGS / "config.yaml").is_file() and (folder / _TRAINED).is_dir()


def _what_is_there(named: Path) -> str:
    if any(sign in str(named) for sign in _PATTERN) and not named.exists():
        return "no folder matches this pattern"
    if not named.exists():
        return "no such folder"
    return "no run and no evaluation, nor any below it" if named.is_dir() else "not a folder"
