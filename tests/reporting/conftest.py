"""Folders of training runs and evaluations as their programs write them, and small."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from biomamba.evaluation.document_scores import (
    DOCUMENT_SCORES,
    ScoreOrigin,
    StoredScores,
    write_document_scores,
)
from biomamba.evaluation.perplexity import DocumentScores, perplexity_records
from biomamba.evaluation.records import (
    RecordContext,
    TaskRecord,
    format_records,
    format_task_records,
)
from biomamba.metrics.measure import Bootstrap

BOOTSTRAP = Bootstrap(num_resamples=50, seed=1)
NUM_DOCUMENTS = 6
ORIGIN = {
    "argv": ["+experiment=x", "name=a b"],
    "config_sha256": "c" * 64,
    "git": {"commit": "0123456789abcdef", "is_dirty": True},
    "machine": {"cpu": "CPU", "num_cores": 2, "gpus": []},
}
SETTINGS = """\
seed: 3
max_tokens: {tokens}
model: {{checkpoint: null, config: {{_target_: a.Mamba2Config, n_layer: 2, d_model: 16}}}}
data: {{mixture: {{weights: {{pubmed: 0.8, web: 0.2}}}}}}
trainer: {{precision: bf16-mixed}}
"""

WriteRun = Callable[..., Path]
WriteEvaluation = Callable[..., Path]


@pytest.fixture
def write_run() -> WriteRun:
    """Return write_run(folder, tokens, **changes of run.json)."""

    def _write(folder: Path, tokens: int = 2_000, **changes: Any) -> Path:
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text(SETTINGS.format(tokens=tokens))
        record = {
            "provenance": ORIGIN,
            "data_fingerprint": "d" * 64,
            "parameters": {"total": 1_000, "trained": 400},
            "sources": {"pubmed": {}, "web": {}},
            "realised": {
                "pubmed": {"tokens": tokens * 3 // 4, "share": 0.75, "epochs": 0.5},
                "web": {"tokens": tokens // 4, "share": 0.25, "epochs": 2.0},
            },
            "before": {"val/pubmed/nll": 5.0, "val/web/nll": 4.0},
            "after": {"val/pubmed/nll": 3.5, "val/web/nll": "inf"},
            "selection": {"step": 10, "monitor": "val/loss", "figure": 3.25},
            "starts": [{"end": "finished", "world_size": 2}],
        }
        (folder / "run.json").write_text(json.dumps(record | changes))
        with SummaryWriter(str(folder / "tensorboard")) as writer:
            for number, step in enumerate((10, 20)):
                at = 1_000.0 + 3_600 * number
                writer.add_scalar("train/loss", 4.0 - number, step, walltime=at)
                writer.add_scalar("data/tokens", tokens * step / 20, step, walltime=at)
                writer.add_scalar("val/pubmed/nll", 4.0 - number / 2, step, walltime=at)
        return folder

    return _write


@pytest.fixture
def write_evaluation() -> WriteEvaluation:
    """Return write_evaluation(folder, bits): bits maps models to sources to bits per byte.

    All documents have 100 bytes and 50 tokens; a number stands for all documents.
    """

    def _write(
        folder: Path,
        bits: Mapping[str, Mapping[str, float | Sequence[float]]],
        paths: Mapping[str, str] | None = None,
        **protocol: Any,
    ) -> Path:
        known = {
            name: {"path": (paths or {}).get(name, f"none/{name}"), "sha256": _sha256(name)}
            for name in bits
        }
        records = []
        for model, sources in bits.items():
            for source, values in sources.items():
                origin = {**ORIGIN, "checkpoints": known, "data_fingerprint": "e" * 64}
                context = RecordContext(model, source, "test", BOOTSTRAP, origin)
                scores = _scores(values)
                told = ScoreOrigin(
                    source=source,
                    model=model,
                    split="test",
                    tokenizer="t",
                    protocol={"seq_len": 64} | protocol,
                    provenance=origin,
                )
                keys = np.arange(1, NUM_DOCUMENTS + 1, dtype=np.uint64)
                write_document_scores(folder / DOCUMENT_SCORES, StoredScores(told, keys, scores))
                records += perplexity_records(context, scores)
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "results.jsonl").write_text(format_records(records))
        return folder

    return _write


@pytest.fixture
def write_tasks() -> Callable[[Path], Path]:
    """Return a function that writes the records of one task."""

    def _write(folder: Path) -> Path:
        folder.mkdir(exist_ok=True, parents=True)
        lines = [_task("majority", 0.5, None), _task("adapted", 0.625, _sha256("adapted"))]
        (folder / "task_results.jsonl").write_text(format_task_records(lines))
        return folder

    return _write


def _task(model: str, value: float, checkpoint: str | None) -> TaskRecord:
    return TaskRecord(
        task="quiz",
        protocol="quiz-2way",
        split="test",
        metric="accuracy",
        value=value,
        low=value - 0.125,
        high=value + 0.125,
        level=0.95,
        method="wilson",
        n=40,
        n_groups=40,
        seed=1,
        model=model,
        prompt="quiz-v1",
        prompt_fingerprint="p",
        checkpoint_sha256=checkpoint,
        data_fingerprint="f" * 64,
        provenance=ORIGIN,
        answer={"by": "likelihood", "decision": "argmax"} if checkpoint else {},
        minimum_detectable_difference=0.25,
    )


def _scores(bits: float | Sequence[float]) -> DocumentScores:
    values = np.broadcast_to(np.array(bits, dtype=np.float64), NUM_DOCUMENTS)
    sizes = np.full(NUM_DOCUMENTS, 100)
    return DocumentScores(values * np.log(2) * sizes, sizes // 2, sizes)


def _sha256(name: str) -> str:
    return name.encode().hex().ljust(64, "0")[:64]
