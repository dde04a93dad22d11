"""Turn raw corpora into checked token stores; a rerun continues where the last one stopped.

    python -m biomamba.prepare
    python -m biomamba.prepare corpus=[local_pubmed,local_c4] tokenizer=bpe_8k name=local \
        paths.raw_dir=/path/to/raw num_workers=8

Writes `<paths.data_dir>/<name>/<corpus>/`, the tokenizer of the set and contamination.json beside
them. With `part=3/16` only that part of the raw shards is staged, for jobs side by side; the run
without `part` then finishes the stores.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from biomamba.config.check import build
from biomamba.config.cli import run_cli
from biomamba.config.run_settings import plain_parts
from biomamba.data.cleaning.benchmark_filter import Firewall
from biomamba.data.cleaning.contamination import findings
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.prepare.pipeline import Job, prepare, summary
from biomamba.data.raw_shards import Part
from biomamba.data.store.format import CONTAMINATION_NAME
from biomamba.runtime.files import read_sealed
from biomamba.training.lineage import keep_private


def main(cfg: DictConfig) -> None:
    """Build corpora, tokenizer source and cleaning, write the stores, print what they hold."""
    folder = Path(cfg.paths.data_dir) / cfg.name
    keep_private(plain_parts(cfg), folder, Path(cfg.paths.run_dir))
    cleaning: Cleaning = build(cfg.cleaning)
    if not cfg.firewall:
        cleaning = replace(cleaning, firewall=Firewall())
    part = None if cfg.part is None else Part.parse(cfg.part)
    for notice in cleaning.notices():
        Console(stderr=True).print(f"note: {notice}", highlight=False, markup=False)
    manifests = prepare(
        folder,
        {name: build(node) for name, node in cfg.corpora.items()},
        build(cfg.tokenizer),
        build(cfg.split),
        cleaning,
        Job(
            num_workers=cfg.num_workers,
            part=part,
            overwrite=cfg.overwrite,
            worker_timeout_seconds=cfg.worker_timeout_seconds,
        ),
    )
    if part is None:
        Console().print(summary(manifests))
        for line in findings(read_sealed(folder / CONTAMINATION_NAME)):
            print(line)
    else:
        print(f"part {part} is staged; when all parts are, run without `part` to finish")


if __name__ == "__main__":
    run_cli("prepare", main)
