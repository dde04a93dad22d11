"""Models scored on the splits of real token stores."""

import math
from pathlib import Path

import numpy as np
import pytest

from biomamba.data.batches import open_evaluation_rows
from biomamba.data.corpora.embedded import EmbeddedCorpus
from biomamba.data.prepare.pipeline import prepare
from biomamba.data.store.reader import TokenSplit, open_stores
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel
from biomamba.evaluation.document_scores import StoredScores
from biomamba.evaluation.perplexity import document_measures
from biomamba.evaluation.runner import EvaluationSettings, evaluate_perplexity
from biomamba.metrics.measure import NO_SCATTER, Bootstrap
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError, DataError


def make_model(vocab_size: int = 257) -> MambaLM:
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=vocab_size, d_state=4, headdim=8)
    return MambaLM(config, ChunkedScan())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    corpora = {"biomedical": EmbeddedCorpus("biomedical", num_documents=40)}
    prepare(folder, corpora, ByteLevel(), StorePolicy(val_permille=300, test_permille=300))
    return folder / "biomedical"


def make_settings(store: Path, **changes: object) -> EvaluationSettings:
    settings = {
        "sources": {"biomedical": [str(store)]},
        "split": "test",
        "seq_len": 256,
        "batch_size": 4,
        "max_documents": 3,
        "bootstrap": Bootstrap(num_resamples=20),
    }
    return EvaluationSettings(**(settings | changes))  # type: ignore[arg-type]


def test_a_model_against_itself_has_changed_by_nothing(store: Path) -> None:
    model = make_model()
    records = list(
        evaluate_perplexity({"base": model, "same": model}, make_settings(store), {"seed": 1})
    )
    assert [(r.model, r.metric) for r in records] == [
        ("base", "perplexity"),
        ("base", "bits_per_byte"),
        ("same", "perplexity"),
        ("same", "bits_per_byte"),
        ("same", "perplexity_change"),
        ("same", "bits_per_byte_change"),
    ]
    assert [(r.value, r.method) for r in records[4:]] == [(0.0, NO_SCATTER)] * 2
    assert all(math.isnan(bound) for r in records[4:] for bound in (r.low, r.high))
    assert {r.num_documents for r in records} == {3}
    assert records[0].provenance["seed"] == 1
    assert records[0].provenance["data_fingerprint"]


def test_figures_do_not_depend_on_the_batch_size(store: Path) -> None:
    model = make_model()
    few, many = (
        next(evaluate_perplexity({"base": model}, make_settings(store, batch_size=size), {}))
        for size in (1, 8)
    )
    assert few.value == pytest.approx(many.value, rel=1e-6)
    assert few.num_tokens == many.num_tokens


def test_scores_of_single_documents_add_up_to_the_records(store: Path) -> None:
    kept: list[StoredScores] = []
    models = {"base": make_model(), "adapted": make_model()}
    records = list(evaluate_perplexity(models, make_settings(store), {"seed": 1}, kept.append))
    rows = open_evaluation_rows([str(store)], split="test", seq_len=64, batch_size=1)

    assert [stored.origin.model for stored in kept] == ["base", "adapted"]
    for stored in kept:
        record = next(r for r in records if r.model == stored.origin.model)
        nll = float(stored.scores.nll.sum())
        assert record.value == pytest.approx(math.exp(nll / record.num_tokens), rel=1e-12)
        assert document_measures(stored.scores)[0].value == record.value
        assert stored.origin.provenance == record.provenance
        # The first three documents by key.
        assert sorted(stored.keys.tolist()) == np.sort(rows.keys)[:3].tolist()
        sizes = dict(zip(rows.keys.tolist(), rows.num_bytes.tolist(), strict=True))
        assert stored.scores.num_bytes.tolist() == [sizes[key] for key in stored.keys.tolist()]
    assert kept[0].origin.tokenizer == open_stores([str(store)])[0].manifest.tokenizer


def test_only_what_changes_a_score_is_part_of_the_protocol(store: Path) -> None:
    protocol = make_settings(store).protocol
    for changes in ({"batch_size": 8}, {"max_documents": 1}, {"segment_tokens": 16}):
        assert make_settings(store, **changes).protocol == protocol
    carry = make_settings(store, segment_tokens=16, segment_state="carry").protocol
    assert carry["segments"] == [16, "carry"]
    assert make_settings(store, seq_len=128).protocol != protocol


def test_splits_are_different_documents(store: Path) -> None:
    model = make_model()
    records = [
        next(evaluate_perplexity({"base": model}, make_settings(store, split=split), {}))
        for split in ("val", "test")
    ]
    assert records[0].provenance != records[1].provenance
    assert records[0].value != records[1].value


def test_a_model_of_too_small_a_vocabulary_is_refused(store: Path) -> None:
    models = {"base": make_model(vocab_size=100)}
    with pytest.raises(CheckpointError, match="knows 100 tokens, the stores of biomedical use 257"):
        list(evaluate_perplexity(models, make_settings(store), {}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "dev"}, "split must be one of train, val, test, got 'dev'"),
        ({"seq_len": 0}, "seq_len must be .* at least 1, found 0"),
        ({"batch_size": 0}, "batch_size must be .* at least 1, found 0"),
        ({"max_documents": 0}, "max_documents must be .* at least 1, or null, found 0"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_settings(Path("store"), **changes)


def test_segments_change_no_figure_and_positions_add_up(store: Path) -> None:
    model = make_model()
    settings = make_settings(store, seq_len=4_096, by_position=True)
    whole = list(evaluate_perplexity({"base": model}, settings, {}))
    settings = make_settings(store, seq_len=4_096, by_position=True, segment_tokens=50)
    parts = list(evaluate_perplexity({"base": model}, settings, {}))

    assert len(whole) > 3
    for one, other in zip(whole, parts, strict=True):
        assert (one.metric, one.num_tokens, one.first_position) == (
            other.metric,
            other.num_tokens,
            other.first_position,
        )
        assert one.value == pytest.approx(other.value, rel=1e-5)
    by_position = [r for r in whole if r.first_position is not None]
    assert sum(r.num_tokens for r in by_position) == whole[0].num_tokens
    nll = sum(r.num_tokens * math.log(r.value) for r in by_position)
    assert nll == pytest.approx(whole[0].num_tokens * math.log(whole[0].value))


def test_an_empty_state_at_every_segment_is_another_figure(store: Path) -> None:
    model = make_model()
    values = {
        state: next(
            evaluate_perplexity(
                {"base": model},
                make_settings(store, seq_len=4_096, segment_tokens=16, segment_state=state),
                {},
            )
        ).value
        for state in ("reset", "zero", "carry")
    }
    assert len(set(values.values())) == 3


def test_short_documents_can_be_left_out(store: Path) -> None:
    rows = open_evaluation_rows([str(store)], split="test", seq_len=64, batch_size=1)
    lengths = np.sort(TokenSplit.open(open_stores([str(store)]), "test").lengths)
    limit = int(lengths[-2])
    settings = make_settings(store, max_documents=None, min_document_tokens=limit)
    record = next(evaluate_perplexity({"base": make_model()}, settings, {}))
    assert record.num_documents == (lengths >= limit).sum() < len(rows.num_bytes)
    assert record.num_tokens == lengths[lengths >= limit].sum()

    settings = make_settings(store, min_document_tokens=int(lengths[-1]) + 1)
    with pytest.raises(DataError, match=f"the longest has {lengths[-1]}: lower min_document"):
        next(evaluate_perplexity({"base": make_model()}, settings, {}))
