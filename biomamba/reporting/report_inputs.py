"""The folders that a report is made of: training runs and evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from biomamba.evaluation.records import ResultRecord, read_records
from biomamba.evaluation.stored_run import StoredModel, read_sources
from biomamba.evaluation.task_records import TaskRecord, read_task_records
from biomamba.reporting.training_run import RUN_RECORD, TrainingRun, read_training_run
from biomamba.runtime.errors import ConfigError, DataError

RESULTS, TASK_RESULTS = "results.jsonl", "task_results.jsonl"


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


def read_inputs(folders: Sequence[Path]) -> ReportInputs:
    """Read each folder as what it is.

    Raises:
        ConfigError: A folder is named twice, or there is none.
        DataError: A folder is neither a run nor an evaluation, or a file of it is damaged.
    """
    if not folders:
        raise ConfigError("runs is empty; name folders as in runs=[runs/a,runs/b]")
    names = short_names(folders)
    inputs = ReportInputs()
    for folder in folders:
        found = {name for name in (RUN_RECORD, RESULTS, TASK_RESULTS) if (folder / name).is_file()}
        if not found:
            raise DataError(
                f"{folder}: {_what_is_there(folder)}; allowed are folders that biomamba.train "
                f"({RUN_RECORD}) or biomamba.evaluate ({RESULTS}, {TASK_RESULTS}) wrote"
            )
        if RUN_RECORD in found:
            inputs.runs.append(read_training_run(names[folder], folder))
        if found - {RUN_RECORD}:
            inputs.evaluations.append(_read_evaluation(names[folder], folder))
    return inputs


def short_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the shortest ends of the paths that tell all of them apart.

    Raises:
        ConfigError: A folder is named twice.
    """
    places = [folder.absolute() for folder in folders]
    if len({place.resolve() for place in places}) < len(places):
        raise ConfigError(f"runs names a folder twice: {', '.join(map(str, folders))}")
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
            records=read_records(results) if results.is_file() else [],
            tasks=read_task_records(tasks) if tasks.is_file() else [],
            models=read_sources(folder) if results.is_file() else [],
        )
    except (UnicodeDecodeError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder}: its results are damaged ({error}); evaluate again into another folder"
        ) from error


def _what_is_there(folder: Path) -> str:
    if not folder.exists():
        return "no such folder"
    if not folder.is_dir():
        return "not a folder"
    parts = sorted({p.parent.name for p in folder.glob("*/*") if p.name in (RUN_RECORD, RESULTS)})
    inside = f", but it holds {', '.join(parts[:5])}: name those" if parts else ""
    return f"no run and no evaluation{inside}"
