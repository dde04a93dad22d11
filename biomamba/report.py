"""Report on training runs and evaluations: one HTML file, Markdown, CSV tables.

    python -m biomamba.report runs=[runs/pretrain,runs/adapt,runs/evaluate/a] output=runs/report
    python -m biomamba.report 'runs=[runs/ablation,runs/eval/*/seed_*]' output=runs/report
    python -m biomamba.report runs=[runs] paper=[biomamba2_perplexity,biomamba2_pubmedqa]

Writes report.html (one file that needs no other), report.md, and every table (.csv) and picture
(.png); with paper=[...] reproduction_cards.md and .json too. Reads the files that biomamba.train
and biomamba.evaluate wrote, no test set and no model; runs of one recipe are one line.
docs/reporting.md explains every section.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from biomamba.config.check import build
from biomamba.config.cli import run_cli
from biomamba.config.messages import check_all
from biomamba.reporting.inputs import find_folders, read_inputs
from biomamba.reporting.metadata import MeshTree
from biomamba.reporting.report import ReportSettings, report_of, write_report
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.files import make_private
from biomamba.runtime.provenance import provenance
from biomamba.training.lineage import keep_private


def main(cfg: DictConfig) -> None:
    """Read the folders and write the report."""
    settings: ReportSettings = build(cfg.report)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    check_all("the configuration", checks_of(config["runs"], settings))
    folders = [str(folder) for folder in find_folders(folders_of(config["runs"])).found]
    # Not with all that is in it: the folder may hold other results.
    if keep_private(config | {"runs": folders}, Path(cfg.output) / ".hydra"):
        make_private(Path(cfg.output), is_recursive=False)
    inputs = read_inputs(folders_of(config["runs"]))
    report = report_of(inputs, settings, provenance(config, sys.argv[1:]))
    count = f"{len(inputs.runs)} training runs, {len(inputs.evaluations)} evaluations"
    if inputs.unfinished:
        left_out = ", ".join(map(str, inputs.unfinished))
        print(f"without a record yet, and left out: {left_out}")
    write_report(Path(cfg.output), cfg.title, count, report)
    print(f"{count}\nreport: {Path(cfg.output) / 'report.html'}")


def checks_of(runs: Any, settings: ReportSettings) -> Iterator[Callable[[], object]]:
    """Yield what finds a wrong folder or file before the figures are computed."""
    yield lambda: find_folders(folders_of(runs))
    mesh_tree = settings.metadata.mesh_tree
    if mesh_tree is not None:
        yield partial(MeshTree.read, Path(mesh_tree))


def folders_of(runs: Any) -> list[Path]:
    """Return the folders that `runs` names.

    Raises:
        ConfigError: It is no list of folders.
    """
    if not isinstance(runs, list) or not all(isinstance(found, str) for found in runs):
        raise ConfigError(
            f"runs must list folders of training runs and evaluations, found {runs!r}; as in "
            "runs=[runs/adapt,runs/evaluate/a]"
        )
    return [Path(found) for found in runs]


if __name__ == "__main__":
    run_cli("report", main)
