"""Find and read what a report is made of: training runs, evaluations, speed measurements."""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomamba.config.messages import check_all
from biomamba.config.run_settings import settings_of
from biomamba.evaluation.records import ResultRecord, TaskRecord, read_records, read_task_records
from biomamba.evaluation.stored_run import StoredModel, read_sources
from biomamba.planning.plan import Actual, read_actual
from biomamba.reporting.efficiency import Measured
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.input_files import RESULT, TASK_RESULT, Shape, check_shape, read_run_record
from biomamba.timing.records import EFFICIENCY_FILE, read_efficiency

# -------------------------------------------------------------------------------------------------
# Which folders a report is made of: named one by one, by a pattern, or by a folder above them.
# -------------------------------------------------------------------------------------------------

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
    """Return the folders with records that are named, match a pattern, or are below a folder.

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
    """Whether a training run started here and has written no record."""
    return (folder / _SETTINGS / "config.yaml").is_file() and (folder / _TRAINED).is_dir()


def _what_is_there(named: Path) -> str:
    if any(sign in str(named) for sign in _PATTERN) and not named.exists():
        return "no folder matches this pattern"
    if not named.exists():
        return "no such folder"
    return "no run and no evaluation, nor any below it" if named.is_dir() else "not a folder"


# -------------------------------------------------------------------------------------------------
# A training run as its folder tells it: record, settings and curves.
# -------------------------------------------------------------------------------------------------

_EVENTS = "events.out.tfevents.*"
_FIRST_EVENT = b"brain.Event:"  # the first record of an event file names the format
Curve = dict[int, float]  # values by step


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A run: its name in the report, its folder, run.json, settings as written, and curves."""

    name: str
    folder: Path
    record: Mapping[str, Any]
    settings: Mapping[str, Any]
    curves: Mapping[str, Curve]
    actual: Actual

    @property
    def tokens_by_step(self) -> Curve:
        """Tokens trained on, which start at 0 at step 0; empty where they were not logged."""
        found = self.curves.get("data/tokens", {})
        return {0: 0.0, **found} if found else {}

    @property
    def num_tokens(self) -> float | None:
        """Tokens that the run has trained on."""
        told = [found.get("tokens") for found in self.record.get("realised", {}).values()]
        realised = [tokens for tokens in told if isinstance(tokens, int | float)]
        return float(sum(realised)) if realised else None

    def validation(self, figure: str) -> dict[str, tuple[float | None, float | None]]:
        """Return a figure of every source before and after the run."""
        stages = [self.record.get(stage, {}) for stage in ("before", "after")]
        ends = {key for stage in stages for key in stage if key.endswith(f"/{figure}")}
        names = {key: key.removeprefix("val/").removesuffix(f"/{figure}") for key in sorted(ends)}
        return {
            name: (_number(stages[0].get(key)), _number(stages[1].get(key)))
            for key, name in names.items()
        }


def read_training_run(name: str, folder: Path) -> TrainingRun:
    """Read a run from its folder.

    Raises:
        DataError: A file is damaged, or not one of a run.
    """
    path = folder / RUN_RECORD
    try:
        record = _checked_run(path, read_run_record(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    curves = _read_curves(folder)
    return TrainingRun(
        name=name,
        folder=folder,
        record=record,
        settings=settings_of(folder) or {},
        curves=curves,
        actual=read_actual(folder),
    )


def _checked_run(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return the record without what is null in its provenance: it was not known."""
    if "provenance" not in record:
        raise DataError(f"{path}: no record of a training run, which biomamba.train writes")
    provenance = {key: value for key, value in record["provenance"].items() if value is not None}
    return {**record, "provenance": provenance}


def _read_curves(folder: Path) -> dict[str, Curve]:
    """Return every scalar; a resumed start takes back the points that it makes again."""
    paths = sorted(folder.rglob(_EVENTS))
    for path in paths:
        with path.open("rb") as file:
            head = file.read(128)
        if head and _FIRST_EVENT not in head:
            raise DataError(f"{path}: not a file of TensorBoard events, or damaged; take it away")
    curves: dict[str, Curve] = {}
    for parent in dict.fromkeys(path.parent for path in paths):
        events = EventAccumulator(str(parent), {"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            points = {point.step: float(point.value) for point in events.Scalars(tag)}
            curves.setdefault(tag, {}).update(points)
    return {tag: dict(sorted(curve.items())) for tag, curve in curves.items()}


def _number(value: object) -> float | None:
    """Return a figure of run.json, where those that are not finite are words."""
    try:
        return None if value is None else float(str(value))
    except ValueError:
        return None


# -------------------------------------------------------------------------------------------------
# The folders that a report is made of: training runs, evaluations and measurements of speed.
# -------------------------------------------------------------------------------------------------

Record = TypeVar("Record", ResultRecord, TaskRecord)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation: its name in the report, its folder, its records and its models by document."""

    name: str
    folder: Path
    records: Sequence[ResultRecord]
    tasks: Sequence[TaskRecord]
    models: Sequence[StoredModel]


@dataclass
class ReportInputs:
    """Everything that a report is made of."""

    runs: list[TrainingRun] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)


def read_inputs(named: Sequence[Path]) -> ReportInputs:
    """Read every folder that is named, matches a pattern, or is below one, as what it is.

    Raises:
        ConfigError: Something is named twice, or nothing.
        DataError: Something holds neither a run nor an evaluation, or a file is damaged.
    """
    folders = find_folders(named)
    names = short_names(folders.found)
    inputs = ReportInputs(unfinished=folders.unfinished)
    for folder in folders.found:
        found = records_of(folder)
        if RUN_RECORD in found:
            inputs.runs.append(read_training_run(names[folder], folder))
        if EFFICIENCY_FILE in found:
            points = read_efficiency(folder / EFFICIENCY_FILE)
            inputs.measured.append(Measured(name=names[folder], folder=folder, records=points))
        if found - {RUN_RECORD, EFFICIENCY_FILE}:
            inputs.evaluations.append(_read_evaluation(names[folder], folder))
    return inputs


def short_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the shortest ends of the paths that tell all of them apart."""
    places = [folder.absolute() for folder in folders]
    names = {}
    for folder, place in zip(folders, places, strict=True):
        others = [other.parts for other in places if other != place]
        length = 1
        while any(other[-length:] == place.parts[-length:] for other in others):
            length += 1
        names[folder] = "/".join(place.parts[-length:])
    return names


def _read_evaluation(name: str, folder: Path) -> Evaluation:
    results, tasks = folder / RESULTS, folder / TASK_RESULTS
    try:
        return Evaluation(
            name=name,
            folder=folder,
            records=_checked_lines(results, RESULT, read_records(results))
            if results.is_file()
            else [],
            tasks=_checked_lines(tasks, TASK_RESULT, read_task_records(tasks))
            if tasks.is_file()
            else [],
            models=read_sources(folder) if results.is_file() else [],
        )
    except (UnicodeDecodeError, TypeError, AttributeError, KeyError) as error:
        raise DataError(
            f"{folder}: its results are damaged ({error}); evaluate again into another folder"
        ) from error


def _checked_lines(path: Path, shape: Shape, records: Sequence[Record]) -> Sequence[Record]:
    for number, record in enumerate(records, start=1):
        check_shape(f"{path}, line {number}", vars(record), shape)
    return records
