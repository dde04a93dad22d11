"""Score models on held-out documents of every source."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from biomamba.data.evaluation_rows import EvaluationRows, open_evaluation_rows
from biomamba.evaluation.document_scores import ScoreOrigin, StoredScores
from biomamba.evaluation.perplexity import (
    DocumentScores,
    perplexity_records,
    score_documents,
)
from biomamba.evaluation.positions import PositionTotals
from biomamba.evaluation.records import RecordContext, ResultRecord
from biomamba.metrics.interval import Bootstrap
from biomamba.model.language_model import MambaLM
from biomamba.model.segments import Segments
from biomamba.runtime.errors import CheckpointError


@dataclass(frozen=True)
class EvaluationSettings:
    """What is scored and how.

    sources maps a name to its token store folders; split is val or test; max_documents limits
    each source to its first documents by key hash (None: all) of at least min_document_tokens;
    seq_len is the window in tokens. With segment_tokens a window of any length takes the memory of
    so many (segment_state: see Segments). by_position adds the perplexity by the position in the
    document.
    """

    sources: dict[str, list[str]]
    split: str
    seq_len: int
    batch_size: int
    max_documents: int | None = None
    min_document_tokens: int = 1
    segment_tokens: int | None = None
    segment_state: str = "reset"
    by_position: bool = False
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        if self.split not in {"val", "test"}:
            raise ValueError(f"split must be val or test, got {self.split!r}")
        for name in ("seq_len", "batch_size", "min_document_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"max_documents must be at least 1, got {self.max_documents}")
        Segments.of(self.segment_tokens, self.segment_state)

    @property
    def protocol(self) -> dict[str, Any]:
        """What changes the score of a document; segments that reset the state change none."""
        segments = self.segment_tokens is not None and self.segment_state != "reset"
        return {
            "seq_len": self.seq_len,
            "segments": [self.segment_tokens, self.segment_state] if segments else None,
        }


Keep = Callable[[StoredScores], object]


def evaluate_perplexity(
    models: Mapping[str, MambaLM],
    settings: EvaluationSettings,
    provenance: Mapping[str, Any],
    keep: Keep | None = None,
) -> Iterator[ResultRecord]:
    """Yield the records of every source and model; the first model is the others' baseline.

    `keep` receives the scores of the single documents.

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
            min_document_tokens=settings.min_document_tokens,
        )
        for context, scores, records in _source_records(models, source, rows, settings, provenance):
            if keep is not None:
                keep(_stored(context, scores, rows, settings))
            yield from records


def _source_records(
    models: Mapping[str, MambaLM],
    source: str,
    rows: EvaluationRows,
    settings: EvaluationSettings,
    provenance: Mapping[str, Any],
) -> Iterator[tuple[RecordContext, DocumentScores, list[ResultRecord]]]:
    baseline: DocumentScores | None = None
    for label, model in models.items():
        if rows.vocab_size > model.config.vocab_size:
            raise CheckpointError(
                f"{label}: the model knows {model.config.vocab_size} tokens, the stores of "
                f"{source} use {rows.vocab_size}: they were made with another tokenizer"
            )
        positions = PositionTotals(rows.num_bytes) if settings.by_position else None
        scores = score_documents(
            model,
            rows.batches(f"{source}, {label}"),
            rows.num_bytes,
            segments=Segments.of(settings.segment_tokens, settings.segment_state),
            positions=positions,
        )
        context = RecordContext(
            model=label,
            source=source,
            split=settings.split,
            bootstrap=settings.bootstrap,
            provenance={**provenance, "data_fingerprint": rows.fingerprint},
        )
        records = perplexity_records(context, scores, baseline)
        if positions is not None:
            records += positions.records(context)
        yield context, scores, records
        baseline = baseline or scores


def _stored(
    context: RecordContext,
    scores: DocumentScores,
    rows: EvaluationRows,
    settings: EvaluationSettings,
) -> StoredScores:
    origin = ScoreOrigin(
        source=context.source,
        model=context.model,
        split=context.split,
        tokenizer=rows.tokenizer_fingerprint,
        protocol=settings.protocol,
        provenance=context.provenance,
    )
    return StoredScores(origin, rows.keys, scores)
