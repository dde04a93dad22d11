"""Evaluate models on the held-out documents of every source, on all ranks."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch import distributed

from biomamba.data.batches import EvaluationRows, open_evaluation_rows
from biomamba.data.document import SPLITS
from biomamba.evaluation.document_scores import ScoreOrigin, StoredScores
from biomamba.evaluation.models.causal import TransformersCausal
from biomamba.evaluation.perplexity import (
    DocumentScores,
    PositionTotals,
    StoredTexts,
    check_window,
    perplexity_records,
    score_documents,
    score_texts,
)
from biomamba.evaluation.records import RecordContext, ResultRecord
from biomamba.metrics.measure import Bootstrap
from biomamba.model.language_model import MambaLM
from biomamba.model.segments import Segments
from biomamba.runtime.errors import CheckpointError, ConfigError, DataError
from biomamba.runtime.numbers import check_whole
from biomamba.runtime.ranks import rank, world_size

# -------------------------------------------------------------------------------------------------
# Let the ranks of an evaluation wait for each other; without a launcher there is nobody to.
# -------------------------------------------------------------------------------------------------

# Longer than any evaluation: a rank with little to do waits for those with much. The launcher ends
# all ranks when one fails.
_TIMEOUT = timedelta(days=30)


@contextmanager
def rank_group() -> Iterator[Callable[[], None]]:
    """Join the ranks and yield what waits until all of them have come there."""
    if world_size() == 1:
        yield lambda: None
        return
    if "MASTER_ADDR" not in os.environ:  # torchrun sets it, srun does not
        slurm = SLURMEnvironment()
        os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
    distributed.init_process_group("gloo", rank=rank(), world_size=world_size(), timeout=_TIMEOUT)
    try:
        yield distributed.barrier
    finally:
        distributed.destroy_process_group()


# -------------------------------------------------------------------------------------------------
# Score models on held-out documents of every source.
#
# A model with another tokenizer reads the same documents as texts and has bits per byte only.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluationSettings:
    """What is scored and how.

    sources maps a name to its token store folders; split is test, val or, to see what was learned
    by heart, train; max_documents limits each source to its first documents by key hash (None:
    all) of at least min_document_tokens; seq_len is the window in tokens. With segment_tokens a
    window of any length takes the memory of so many (segment_state: see Segments). by_position
    adds the perplexity by the position in the document. A model whose tokenizer cannot give every
    document back is refused unless allow_lossy_tokenizer.
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
    allow_lossy_tokenizer: bool = False
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        for name in ("seq_len", "batch_size", "min_document_tokens"):
            check_whole(name, getattr(self, name))
        check_whole("max_documents", self.max_documents, optional=True)
        Segments.of(self.segment_tokens, self.segment_state)

    @property
    def protocol(self) -> dict[str, Any]:
        """What changes the score of a document; segments that reset the state change none."""
        segments = self.segment_tokens is not None and self.segment_state != "reset"
        return {
            "seq_len": self.seq_len,
            "segments": [self.segment_tokens, self.segment_state] if segments else None,
        }


Scorable = MambaLM | TransformersCausal
Keep = Callable[[StoredScores], object]


def evaluate_perplexity(
    models: Mapping[str, Scorable],
    settings: EvaluationSettings,
    provenance: Mapping[str, Any],
    keep: Keep | None = None,
) -> Iterator[ResultRecord]:
    """Yield the records of every source and model; the first model is the others' baseline.

    `keep` receives the scores of the single documents.

    Raises:
        CheckpointError: a model has fewer embeddings than the tokenizer has ids.
        ConfigError: a model with another tokenizer is to be scored by position or in windows that
            it cannot read.
        DataError: a store is missing or damaged, or a tokenizer cannot give its documents back.
    """
    check_readers(models, settings)
    for source, stores in settings.sources.items():
        rows = open_evaluation_rows(
            stores,
            split=settings.split,
            seq_len=settings.seq_len,
            batch_size=settings.batch_size,
            max_documents=settings.max_documents,
            min_document_tokens=settings.min_document_tokens,
        )
        baseline: _Scored | None = None
        for label, model in models.items():
            origin = {**provenance, "data_fingerprint": rows.fingerprint}
            context = RecordContext(label, source, settings.split, settings.bootstrap, origin)
            if isinstance(model, TransformersCausal):
                scored = _score_texts(model, context, rows, settings)
            else:
                scored = _score_tokens(model, context, rows, settings)
            if keep is not None:
                keep(_stored(scored, rows, settings))
            yield from scored.records(baseline)
            baseline = baseline or scored


def check_readers(models: Mapping[str, Scorable], settings: EvaluationSettings) -> None:
    """Raise ConfigError unless the models with tokens of their own can read the documents so."""
    for label, model in models.items():
        if not isinstance(model, TransformersCausal):
            continue
        if settings.by_position:
            raise ConfigError(
                f"evaluation.by_position=true: positions are counted in tokens, and {label} has "
                "tokens of its own; leave it out, or by_position"
            )
        check_window(model, settings.seq_len)


@dataclass(frozen=True)
class _Scored:
    """The documents of a source as one model scored them.

    Attributes:
        tokenizer: Fingerprint of the tokenizer whose tokens were scored.
        per_token: Whether they are those of the stores.
    """

    context: RecordContext
    scores: DocumentScores
    tokenizer: str
    per_token: bool
    positions: PositionTotals | None = None

    def records(self, baseline: "_Scored | None") -> list[ResultRecord]:
        """Return the figures, and the changes against a baseline."""
        records = perplexity_records(
            self.context,
            self.scores,
            None if baseline is None else baseline.scores,
            per_token=self.per_token,
            change_per_token=self.per_token and (baseline is None or baseline.per_token),
        )
        return records + list(self.positions.records(self.context) if self.positions else ())


def _score_tokens(
    model: MambaLM, context: RecordContext, rows: EvaluationRows, settings: EvaluationSettings
) -> _Scored:
    if rows.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"{context.model}: the model knows {model.config.vocab_size} tokens, the stores of "
            f"{context.source} use {rows.vocab_size}: they were made with another tokenizer"
        )
    positions = PositionTotals(rows.num_bytes) if settings.by_position else None
    scores = score_documents(
        model,
        rows.batches(f"{context.source}, {context.model}"),
        rows.num_bytes,
        segments=Segments.of(settings.segment_tokens, settings.segment_state),
        positions=positions,
    )
    return _Scored(context, scores, rows.tokenizer_fingerprint, True, positions)


def _score_texts(
    model: TransformersCausal,
    context: RecordContext,
    rows: EvaluationRows,
    settings: EvaluationSettings,
) -> _Scored:
    store = settings.sources[context.source][0]
    texts = StoredTexts(rows.documents, store, rows.tokenizer_fingerprint)
    found = score_texts(
        model,
        texts,
        window_tokens=settings.seq_len,
        description=f"{context.source}, {context.model}",
    )
    if found.num_lossy and not settings.allow_lossy_tokenizer:
        raise DataError(
            f"{context.model} ({model.checkpoint}): its tokenizer cannot give back "
            f"{found.num_lossy} of {len(texts)} documents of {context.source} (unknown characters, "
            "lower case, lost spaces), so that its bits per byte would be too low; "
            "evaluation.allow_lossy_tokenizer=true scores them all the same and says so"
        )
    fingerprint = model.tokenizer.fingerprint
    origin = {"tokenizer": fingerprint, "lossy_documents": found.num_lossy}
    context = replace(context, provenance={**context.provenance, **origin})
    return _Scored(context, found.scores, fingerprint, False)


def _stored(scored: _Scored, rows: EvaluationRows, settings: EvaluationSettings) -> StoredScores:
    context = scored.context
    origin = ScoreOrigin(
        source=context.source,
        model=context.model,
        split=context.split,
        tokenizer=scored.tokenizer,
        protocol=settings.protocol,
        provenance=context.provenance,
    )
    return StoredScores(origin, rows.keys, scored.scores)
