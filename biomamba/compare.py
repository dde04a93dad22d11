"""Compare models from the folders of their evaluations, item by item.

    python -m biomamba.compare runs=[runs/evaluate/a,runs/evaluate/b]
    python -m biomamba.compare 'runs={base:[runs/evaluate/b],tuned:[runs/evaluate/s1,...]}'

A list takes every model of every evaluation; runs of one recipe with different seeds become one
line. Names with lists take the main model of each evaluation, as seeds. Writes comparison.md, .csv
and .jsonl, intervals.png and, for held-out documents, changes.png, and prints the table. Reads the
files that biomamba.evaluate wrote, no test set and no model. docs/statistics.md explains every
figure.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from biomamba.config.check import build
from biomamba.config.cli import run_cli
from biomamba.config.messages import check_all
from biomamba.config.run_settings import (
    checked_part,
    plain_parts,
    settings_path,
    stored_config,
)
from biomamba.evaluation.comparison import (
    ComparisonSettings,
    Models,
    compare,
    comparison_csv,
    document_changes,
    format_comparison,
    gather,
    gather_named,
)
from biomamba.evaluation.stored_run import check_evaluation, read_evaluation
from biomamba.reporting.plots import changes_plot, intervals_plot
from biomamba.reporting.tables import comparison_report
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import make_private, write_bytes, write_text
from biomamba.tasks.task import Task
from biomamba.training.lineage import keep_private


def main(cfg: DictConfig) -> None:
    """Read the evaluations, compare their models, write tables and pictures."""
    settings: ComparisonSettings = build(cfg.comparison)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    # Not with all that is in it: the folder may hold other results.
    if keep_private(plain_parts(cfg), Path(cfg.output) / ".hydra"):
        make_private(Path(cfg.output), is_recursive=False)
    models = models_of(config["runs"])
    if len(models) < 2:
        raise ConfigError(
            f"runs hold one model only ({', '.join(models)}); name evaluations of two or more"
        )
    comparison = compare(models, settings)
    if not comparison.records:
        raise DataError(f"nothing to compare: {'; '.join(comparison.notes)}")
    output, report = Path(cfg.output), comparison_report(comparison)
    write_text(output / "comparison.md", f"{report}\n")
    write_text(output / "comparison.jsonl", format_comparison(comparison.records))
    write_text(output / "comparison.csv", comparison_csv(comparison.records))
    write_bytes(output / "intervals.png", intervals_plot(comparison.records))
    reference = settings.reference or next(iter(models))
    changes = document_changes(models, reference)
    if changes:
        write_bytes(output / "changes.png", changes_plot(changes, reference))
    print(f"\n{report}\n\ntable, records and pictures: {output}")


def models_of(runs: Any) -> Models:
    """Return the models of the evaluations that `runs` names.

    Raises:
        ConfigError: It is neither a list of folders nor names with such lists, or several of them
            are not those of evaluations.
        DataError: One folder is not that of an evaluation.
    """
    named = runs if isinstance(runs, dict) else {"": runs}
    check_all("runs", [partial(_folders, name, found) for name, found in named.items()])
    folders = {name: _folders(name, found) for name, found in named.items()}
    every = list(dict.fromkeys(folder for found in folders.values() for folder in found))
    check_all("runs", [partial(check_evaluation, folder) for folder in every])
    tasks: dict[Path, Mapping[str, Task]] = {}
    check_all("runs", [partial(_find_tasks, folder, tasks) for folder in every])
    evaluations = {folder: read_evaluation(folder, tasks[folder]) for folder in every}
    return gather_named(folders, evaluations) if isinstance(runs, dict) else gather(evaluations)


def _folders(name: str, found: Any) -> list[Path]:
    if not isinstance(found, list) or not found or not all(isinstance(f, str) for f in found):
        key = f"runs.{name}" if name else "runs"
        raise ConfigError(
            f"{key} must list folders of evaluations, found {found!r}; as in runs=[runs/a,runs/b] "
            f"or 'runs={{one:[runs/a],other:[runs/b]}}'"
        )
    return [Path(folder) for folder in found]


def _find_tasks(folder: Path, tasks: dict[Path, Mapping[str, Task]]) -> None:
    tasks[folder] = tasks_of(folder)


def tasks_of(folder: Path) -> Mapping[str, Task]:
    """Return the tasks as the evaluation in a folder was told them."""
    config = stored_config(folder)
    if config is None or not config.get("tasks"):
        return {}
    checked_part(folder, config, ["tasks"])
    try:
        tasks: Mapping[str, Task] = build(config.tasks)
    except ConfigError as error:
        raise DataError(f"{settings_path(folder)}: its tasks cannot be built: {error}") from error
    return tasks


if __name__ == "__main__":
    run_cli("compare", main)
