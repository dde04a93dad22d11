"""Score a model on held-out documents, beside the model that it was adapted from.

    python -m biomamba.evaluate checkpoint=runs/adapted/model baseline=runs/base/model

Writes results.jsonl (one record per metric, with interval and provenance) and results.md into
the run folder, and prints the table; with evaluation.by_position=true also positions.md and
positions.png. The only program that reads a test split.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from biomamba.config.build import build
from biomamba.config.cli import run_cli
from biomamba.evaluation.document_scores import DOCUMENT_SCORES, write_document_scores
from biomamba.evaluation.records import ResultRecord, format_records
from biomamba.evaluation.runner import evaluate_perplexity
from biomamba.model.checkpoint import load_pretrained, weights_digest
from biomamba.model.isolation_probe import probe_isolation
from biomamba.reporting.plots import positions_plot
from biomamba.reporting.tables import perplexity_table, positions_table
from biomamba.runtime.atomic import write_bytes, write_text
from biomamba.runtime.provenance import provenance


def main(cfg: DictConfig) -> None:
    """Load the checkpoints, score them, write records and table."""
    settings = build(cfg.evaluation)
    backend = build(cfg.model.backend)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folders = {"base": cfg.baseline} if cfg.baseline is not None else {}
    folders |= {"adapted" if folders else "model": cfg.checkpoint}
    models = {
        label: load_pretrained(folder, backend).to(device).eval()
        for label, folder in folders.items()
    }
    isolation = probe_isolation(next(iter(models.values())), torch.device(device), torch.float32)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    origin = provenance(config) | {
        "backend": asdict(isolation),
        "checkpoints": {
            label: {"path": folder, "sha256": weights_digest(folder)}
            for label, folder in folders.items()
        },
    }
    run_dir = Path(cfg.paths.run_dir)
    keep = partial(write_document_scores, run_dir / DOCUMENT_SCORES)
    records = list(evaluate_perplexity(models, settings, origin, keep))
    table = perplexity_table(records)
    write_text(run_dir / "results.jsonl", format_records(records))
    write_text(run_dir / "results.md", table + "\n")
    print(f"\nHeld-out {settings.split} split, value [{settings.bootstrap.level:.0%} interval]:\n")
    print(f"{table}\n\nrecords: {run_dir / 'results.jsonl'}")
    if settings.by_position:
        _write_positions(records, run_dir)


def _write_positions(records: Sequence[ResultRecord], run_dir: Path) -> None:
    table = positions_table(records)
    write_text(run_dir / "positions.md", table + "\n")
    write_bytes(run_dir / "positions.png", positions_plot(records))
    print(f"\nBy position in the document:\n\n{table}\n\nplot: {run_dir / 'positions.png'}")


if __name__ == "__main__":
    run_cli("evaluate", main)
