"""Hash every file of prepared token stores and name what was changed, cut, lost or added.

    python -m biomamba.verify name=local
    python -m biomamba.verify stores=[data/local/pubmed,data/local/c4]

Prints a table of the stores; exit code 2 if anything deviates, with every file named.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from biomamba.config.cli import run_cli
from biomamba.data.store.verify import (
    StoreCheck,
    check_set_files,
    check_store,
    set_folders,
    store_files,
)
from biomamba.runtime.errors import DataError


def main(cfg: DictConfig) -> None:
    """Check the stores of a set, or those named, and print what was found."""
    problems: list[str] = []
    if cfg.stores is None:
        folder = Path(cfg.paths.data_dir) / cfg.name
        folders = set_folders(folder)
        problems.extend(check_set_files(folder))
    else:
        stores = [cfg.stores] if isinstance(cfg.stores, str) else cfg.stores
        folders = [Path(store) for store in stores]
    checks = check(folders)
    Console().print(table(checks))
    problems.extend(problem for check in checks for problem in check.problems)
    if problems:
        lines = "\n  ".join(problems)
        raise DataError(
            f"{len(problems)} problems in {len(folders)} token stores; copy the files again or "
            f"prepare the set again with overwrite=true\n  {lines}"
        )


def check(folders: Sequence[Path]) -> list[StoreCheck]:
    """Check stores; progress goes to stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        sizes = [sum(path.stat().st_size for path in store_files(folder)) for folder in folders]
        task = progress.add_task("verify", total=sum(sizes))
        checks = []
        for folder in folders:
            progress.update(task, description=f"verify {folder.name}")
            checks.append(check_store(folder, lambda size: progress.advance(task, size)))
    return checks


def table(checks: Sequence[StoreCheck]) -> Table:
    """Tabulate what each store holds and its state."""
    result = Table(title="Token stores")
    result.add_column("store", overflow="fold")
    for heading in ("documents", "tokens", "files", "bytes"):
        result.add_column(heading, justify="right")
    result.add_column("state")
    for found in checks:
        totals = list(found.manifest.totals.values()) if found.manifest else []
        count = len(found.problems)
        result.add_row(
            str(found.folder),
            f"{sum(total.documents for total in totals):,}" if totals else "?",
            f"{sum(total.tokens for total in totals):,}" if totals else "?",
            f"{found.num_files:,}",
            f"{found.size_bytes:,}",
            "ok" if not count else f"{count} problem{'s' if count > 1 else ''}",
        )
    return result


if __name__ == "__main__":
    run_cli("verify", main)
