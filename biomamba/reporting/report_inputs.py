"""The folders that a report is made of: training runs, evaluations and measurements of speed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from biomamba.evaluation.records import ResultRecord, read_records
from biomamba.evaluation.stored_run import StoredModel, read_sources
from biomamba.evaluation.task_records import TaskRecord, read_task_records
from biomamba.reporting.efficiency_section import Measured
from biomamba.reporting.report_folders import (
    RESULTS,
    RUN_RECORD,
    TASK_RESULTS,
    find_folders,
    records_of,
)
from biomamba.reporting.training_run import TrainingRun, read_training_run
from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import Shape, check_shape
from biomamba.runtime.record_shapes import RESULT, TASK_RESULT
from biomamba.timing.records import EFFICIENCY_FILE, read_efficiency

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
    """Read every folder that is named, matches a pattern, or lies below one, as what it is.

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
            records=_checked(results, RESULT, read_records(results)) if results.is_file() else [],
            tasks=_checked(tasks, TASK_RESULT, read_task_records(tasks)) if tasks.is_file() else [],
            models=read_sources(folder) if results.is_file() else [],
        )
    except (UnicodeDecodeError, TypeError, AttributeError, KeyError) as error:
        raise DataError(
            f"{folder}: its results are damaged ({error}); evaluate again into another folder"
        ) from error


def _checked(path: Path, shape: Shape, records: Sequence[Record]) -> Sequence[Record]:
    for number, record in enumerate(records, start=1):
        check_shape(f"{path}, line {number}", vars(record), shape)
    return records
