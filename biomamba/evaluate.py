"""Score a model on held-out documents and tasks, beside the model that it was adapted from.

    python -m biomamba.evaluate checkpoint=runs/adapted/model baseline=runs/base/model
    python -m biomamba.evaluate checkpoint=runs/adapted/model task=[pubmedqa] sources=none

Of the documents of `sources`: results.jsonl (one record per metric, with interval and provenance),
results.md, document_scores/ and, where the stores know year and subjects of documents,
document_facts/; with evaluation.by_position=true also positions.md and
positions.png. Of tasks: task_results.jsonl, task_results.md and predictions/. The only program that
reads a test split.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from biomamba.config.check import build
from biomamba.config.cli import run_cli
from biomamba.config.run_settings import plain_parts
from biomamba.evaluation.answer_model import AnswerModel
from biomamba.evaluation.answers import is_restricted
from biomamba.evaluation.document_scores import (
    DOCUMENT_FACTS,
    DOCUMENT_SCORES,
    StoredScores,
    write_document_facts,
    write_document_scores,
)
from biomamba.evaluation.models.causal import TransformersCausal
from biomamba.evaluation.models.opening import PREFIX, Baseline, is_baseline, open_baseline
from biomamba.evaluation.models.ours import MambaAnswers
from biomamba.evaluation.records import ResultRecord, format_records, format_task_records
from biomamba.evaluation.runner import (
    EvaluationSettings,
    Scorable,
    check_readers,
    evaluate_perplexity,
    rank_group,
)
from biomamba.evaluation.task_runner import TaskEvaluation
from biomamba.inference.text_generation import find_tokenizer
from biomamba.model.checkpoint import load_pretrained, weights_digest
from biomamba.model.isolation_probe import probe_isolation
from biomamba.model.language_model import MambaLM
from biomamba.model.ssd import ScanBackend
from biomamba.reporting.plots import positions_plot
from biomamba.reporting.tables import filter_notes, perplexity_table, positions_table, task_table
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import write_bytes, write_text
from biomamba.runtime.provenance import provenance
from biomamba.runtime.ranks import is_rank_zero, local_rank, require_launcher
from biomamba.tasks.task import Task
from biomamba.training.launch import check_run_folder
from biomamba.training.lineage import Lineage, find_lineage, keep_private

PREDICTIONS = "predictions"


def main(cfg: DictConfig) -> None:
    """Load the checkpoints, score them on tasks and documents, write records and tables."""
    require_launcher()
    check_run_folder(HydraConfig.get().overrides.task)
    keep_private(plain_parts(cfg), Path(cfg.paths.run_dir))
    settings = build(cfg.evaluation)
    tasks = find_tasks(build(cfg.tasks) or {})
    if not tasks and not settings.sources:
        raise ConfigError("nothing to evaluate: name task=[...], or sources other than none")
    device = find_device()
    sources = find_sources(cfg.checkpoint, cfg.baseline)
    backend = build(cfg.model.backend)
    batch_size = cfg.answers.batch_size
    models = {
        label: open_model(label, source, backend, device, batch_size)
        for label, source in sources.items()
    }
    scorable = find_scorable(models, settings) if settings.sources else {}
    digests = {
        label: weights_digest(sources[label])
        if isinstance(model, MambaLM)
        else model.checkpoint_sha256
        for label, model in models.items()
    }
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    origin = provenance(config) | {
        "backend": isolation_of(models.values(), device),
        "checkpoints": {
            label: {"path": source, "sha256": digests[label]} for label, source in sources.items()
        },
    }
    if tasks:
        answering = [
            model
            if not isinstance(model, MambaLM)
            else MambaAnswers(
                label,
                model,
                find_tokenizer(sources[label], cfg.tokenizer_file),
                checkpoint=(sources[label], digests[label]),
            )
            for label, model in models.items()
        ]
        lineages = find_lineages(
            {name: sources[name] for name, model in models.items() if isinstance(model, MambaLM)}
        )
        evaluate_tasks(cfg, tasks, answering, settings, origin, lineages)
    if settings.sources and is_rank_zero():
        evaluate_sources(scorable, settings, origin, Path(cfg.paths.run_dir))


def find_sources(checkpoint: str, baseline: str | None) -> dict[str, str]:
    """Return where each model comes from, by its label; the baseline is first.

    Models of other libraries are called by their own name.
    """
    named = is_baseline(checkpoint) or (baseline is not None and is_baseline(baseline))
    sources = {} if baseline is None else {own_name(baseline) or "base": baseline}
    main = "model" if named or baseline is None else "adapted"
    return sources | {own_name(checkpoint) or main: checkpoint}


def own_name(source: str) -> str | None:
    """Return the last part of the name of a model of another library, else None."""
    if not is_baseline(source):
        return None
    return Path(source.removeprefix(PREFIX).partition("@")[0]).name


def open_model(
    label: str, source: str, backend: ScanBackend, device: torch.device, batch_size: int
) -> MambaLM | Baseline:
    """Load one of our models, or one of another library."""
    if is_baseline(source):
        return open_baseline(source, label=label, device=str(device), batch_size=batch_size)
    return load_pretrained(source, backend).to(device).eval()


def find_scorable(
    models: Mapping[str, MambaLM | Baseline], settings: EvaluationSettings
) -> dict[str, Scorable]:
    """Return the models as readers of documents.

    Raises:
        ConfigError: One of them cannot score documents, or not in this way.
    """
    found: dict[str, Scorable] = {
        label: model
        for label, model in models.items()
        if isinstance(model, MambaLM | TransformersCausal)
    }
    unable = sorted(models.keys() - found.keys())
    if unable:
        raise ConfigError(f"{unable} cannot score documents, tasks only; set sources=none")
    check_readers(found, settings)
    return found


def isolation_of(
    models: Iterable[MambaLM | Baseline], device: torch.device
) -> dict[str, Any] | None:
    """Prove that our models keep documents apart on this device; None without one of ours."""
    ours = [model for model in models if isinstance(model, MambaLM)]
    return asdict(probe_isolation(ours[0], device, torch.float32)) if ours else None


def find_lineages(sources: Mapping[str, str]) -> dict[str, Lineage]:
    """Return how our models came about, by label; a model whose records are damaged is left out."""
    found = {}
    for label, source in sources.items():
        try:
            found[label] = find_lineage(source)
        except DataError as error:
            if is_rank_zero():
                print(f"{label}: its training data are not known: {error}", file=sys.stderr)
    return found


def find_tasks(nodes: Mapping[str, Task]) -> list[Task]:
    """Return the tasks of the configuration.

    Raises:
        ConfigError: Two of them have the same name.
    """
    names = [task.name for task in nodes.values()]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"several of tasks are named {repeated}; give each a name of its own")
    return list(nodes.values())


def find_device() -> torch.device:
    """Return the GPU of this rank, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank() % torch.cuda.device_count())


def evaluate_tasks(
    cfg: DictConfig,
    tasks: Sequence[Task],
    models: Sequence[AnswerModel],
    settings: EvaluationSettings,
    origin: Mapping[str, Any],
    lineages: Mapping[str, Lineage],
) -> None:
    """Let all ranks answer; then let rank zero measure, write and print."""
    run_dir = Path(cfg.paths.run_dir)
    answers, folder = build(cfg.answers), run_dir / PREDICTIONS
    evaluation = TaskEvaluation(models, tasks, answers, folder, lineages)
    with rank_group() as wait_for_all:
        evaluation.answer()
        wait_for_all()
    if not is_rank_zero():
        return
    records = list(evaluation.records(settings.bootstrap, origin))
    table = task_table(records)
    write_text(run_dir / "task_results.jsonl", format_task_records(records))
    write_text(run_dir / "task_results.md", table + "\n")
    print(f"\nTasks, {cfg.split} split, value [{settings.bootstrap.level:.0%} interval]:\n")
    print(f"{table}\n\nrecords: {run_dir / 'task_results.jsonl'}")
    for line in filter_notes(records):
        print(line)
    print(f"answers to each item: {run_dir / PREDICTIONS}")
    hidden = [task.name for task in tasks if is_restricted(task)]
    if hidden:
        print(
            f"restricted: of {', '.join(hidden)} only hashes, lengths and scores are kept, no "
            "texts; only you can read the files"
        )


def evaluate_sources(
    models: Mapping[str, Scorable],
    settings: EvaluationSettings,
    origin: Mapping[str, Any],
    run_dir: Path,
) -> None:
    """Score the documents of all sources, write and print the figures."""

    def keep(stored: StoredScores) -> None:
        write_document_scores(run_dir / DOCUMENT_SCORES, stored)
        stores = settings.sources[stored.origin.source]
        write_document_facts(run_dir / DOCUMENT_FACTS, stored, stores)

    records = list(evaluate_perplexity(models, settings, origin, keep))
    table = perplexity_table(records)
    write_text(run_dir / "results.jsonl", format_records(records))
    write_text(run_dir / "results.md", table + "\n")
    print(f"\nHeld-out {settings.split} split, value [{settings.bootstrap.level:.0%} interval]:\n")
    print(f"{table}\n\nrecords: {run_dir / 'results.jsonl'}")
    if settings.by_position:
        write_positions(records, run_dir)


def write_positions(records: Sequence[ResultRecord], run_dir: Path) -> None:
    """Write and print the figures by position."""
    table = positions_table(records)
    write_text(run_dir / "positions.md", table + "\n")
    write_bytes(run_dir / "positions.png", positions_plot(records))
    print(f"\nBy position in the document:\n\n{table}\n\nplot: {run_dir / 'positions.png'}")


if __name__ == "__main__":
    run_cli("evaluate", main)
