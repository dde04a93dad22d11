"""Score models on held-out documents of every source."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from biomamba.data.evaluation_rows import EvaluationRows, open_evaluation_rows
from biomamba.evaluation.perplexity import (
    DocumentScores,
    RecordContext,
    perplexity_records,
    score_documents,
)
from biomamba.evaluation.records import ResultRecord
from biomamba.metrics.interval import Bootstrap
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError


@dataclass(frozen=True)
class EvaluationSettings:
    """What is scored and how.

    sources maps a name to its token store folders; split is val or test; max_documents limits
    each source to its first documents by key hash (None: all); seq_len is the window in tokens.
    """

    sources: dict[str, list[str]]
    split: str
    seq_len: int
    batch_size: int
    max_documents: int | None = None
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        if self.split not in {"val", "test"}:
            raise ValueError(f"split must be val or test, got {self.split!r}")
        for name in ("seq_len", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"max_documents must be at least 1, got {self.max_documents}")


def evaluate_perplexity(
    models: Mapping[str, MambaLM], settings: EvaluationSettings, provenance: Mapping[str, Any]
) -> Iterator[ResultRecord]:
    """Yield the records of every source and model; the first model is the others' baseline.

    Raises:
        CheckpointError: a model has fewer embeddings than the tokenizer has ids.
        DataError: a store is missing or damaged.
    """
    for source, stores in settings.sources.items():
        rows = open_evaluation_rows(
            stores,
            split=settings.split,
            seq_len=settings.seq_len,
            batch_size=settings.batch_size,
            max_documents=settings.max_documents,
        )
        yield from _source_records(models, source, rows, settings, provenance)


def _source_records(
    models: Mapping[str, MambaLM],
    source: str,
    rows: EvaluationRows,
    settings: EvaluationSettings,
    provenance: Mapping[str, Any],
) -> Iterator[ResultRecord]:
    baseline: DocumentScores | None = None
    for label, model in models.items():
        if rows.vocab_size > model.config.vocab_size:
            raise CheckpointError(
                f"{label}: the model knows {model.config.vocab_size} tokens, the stores of "
                f"{source} use {rows.vocab_size}: they were made with another tokenizer"
            )
        scores = score_documents(model, rows.batches(f"{source}, {label}"), rows.num_bytes)
        context = RecordContext(
            model=label,
            source=source,
            split=settings.split,
            bootstrap=settings.bootstrap,
            provenance={**provenance, "data_fingerprint": rows.fingerprint},
        )
        yield from perplexity_records(context, scores, baseline)
        baseline = baseline or scores
