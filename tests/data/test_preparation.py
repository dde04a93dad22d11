"""The prepare stage from corpora to stores."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from biomamba.data.corpora.embedded import EmbeddedCorpus
from biomamba.data.document import Document, Reject, SplitRule, document_key
from biomamba.data.manifest import verify_store
from biomamba.data.preparation import Job, prepare, summary, training_texts
from biomamba.data.store import StorePolicy
from biomamba.data.tokenizer import Tokenizer
from biomamba.data.tokenizer_folder import load_tokenizer
from biomamba.data.tokenizer_source import ByteLevel, TrainedBpe
from biomamba.runtime.errors import ConfigError, DataError

POLICY = StorePolicy(val_permille=300, test_permille=300)
Content = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def corpora(make_corpus: Callable[..., Any]) -> dict[str, Any]:
    return {
        "a": make_corpus([[f"alpha {i}" for i in range(30)]] * 1),
        "b": make_corpus([[f"beta {i}" for i in range(10)], [Reject("too short", None)]]),
    }


def test_every_corpus_becomes_a_verified_store(tmp_path: Path, corpora: dict[str, Any]) -> None:
    manifests = prepare(tmp_path, corpora, ByteLevel(), POLICY)
    for name, manifest in manifests.items():
        assert verify_store(tmp_path / name, "full") == manifest
    assert load_tokenizer(tmp_path).fingerprint == manifests["a"].tokenizer


def test_a_second_run_changes_no_byte(
    tmp_path: Path, corpora: dict[str, Any], content_of: Content
) -> None:
    prepare(tmp_path, corpora, TrainedBpe(270), POLICY)
    before = content_of(tmp_path)
    prepare(tmp_path, corpora, TrainedBpe(270), POLICY)
    assert content_of(tmp_path) == before


def test_the_bpe_sees_the_training_split_alone(
    tmp_path: Path, make_corpus: Callable[..., Any]
) -> None:
    documents = [Document(f"word{i} " * 3, str(i), "x") for i in range(40)]
    corpus = make_corpus([documents])
    train = [d.text for d in documents if POLICY.rule.split_of(document_key(d.id)) == "train"]
    assert 0 < len(train) < 40
    manifests = prepare(tmp_path, {"a": corpus}, TrainedBpe(400), POLICY)
    assert manifests["a"].tokenizer == Tokenizer.train_bpe(train, 400).fingerprint
    everything = Tokenizer.train_bpe([d.text for d in documents], 400)
    assert manifests["a"].tokenizer != everything.fingerprint


def test_training_texts_leave_out_rejects(corpora: dict[str, Any]) -> None:
    shards = {name: corpus.shards() for name, corpus in corpora.items()}
    assert len(list(training_texts(corpora, shards, SplitRule(0, 0)))) == 40


def test_the_record_names_what_the_bpe_was_trained_on(
    tmp_path: Path, corpora: dict[str, Any]
) -> None:
    prepare(tmp_path, corpora, TrainedBpe(270), POLICY)
    record = json.loads((tmp_path / "tokenizer.record.json").read_text())
    assert set(record["trained_on"]) == {"a", "b", "split"}


def test_a_corpus_added_later_keeps_the_tokenizer(tmp_path: Path, corpora: dict[str, Any]) -> None:
    first = prepare(tmp_path, {"a": corpora["a"]}, TrainedBpe(270), POLICY)
    both = prepare(tmp_path, corpora, TrainedBpe(270), POLICY)
    assert both["b"].tokenizer == first["a"].tokenizer


def test_another_tokenizer_is_refused_and_overwrite_rebuilds(
    tmp_path: Path, corpora: dict[str, Any], byte_tokenizer: Tokenizer
) -> None:
    prepare(tmp_path, corpora, TrainedBpe(270), POLICY)
    with pytest.raises(DataError, match="overwrite=true"):
        prepare(tmp_path, corpora, ByteLevel(), POLICY)
    manifests = prepare(tmp_path, corpora, ByteLevel(), POLICY, job=Job(overwrite=True))
    assert manifests["a"].tokenizer == byte_tokenizer.fingerprint


def test_the_summary_counts_documents_and_rejects(tmp_path: Path, corpora: dict[str, Any]) -> None:
    manifests = prepare(tmp_path, corpora, ByteLevel(), StorePolicy(0, 0))
    console = Console(width=200, file=io.StringIO())
    console.print(summary(manifests))
    assert isinstance(console.file, io.StringIO)
    lines = [
        [cell.strip() for cell in line.split("\u2502")[1:-1]]
        for line in console.file.getvalue().splitlines()
    ]
    # Every alpha and beta text has one digit or two: 7 and 6 bytes at the least.
    assert ["a", "test", "train", "30", "260", "230"] in lines
    assert ["b", "", "left out: too short", "1", "", ""] in lines


def test_progress_goes_to_stderr(
    tmp_path: Path, corpora: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, corpora, ByteLevel(), POLICY)
    captured = capsys.readouterr()
    assert "rows/s" in captured.err
    assert not captured.out


@pytest.mark.parametrize(
    ("rows", "reasons"),
    [([], "its raw files hold no rows"), ([Reject("too short", None)] * 2, "too short: 2")],
)
def test_a_corpus_without_documents_is_refused(
    rows: list[Reject], reasons: str, tmp_path: Path, make_corpus: Callable[..., Any]
) -> None:
    corpora = {"a": make_corpus([["text"]]), "b": make_corpus([rows])}
    with pytest.raises(DataError, match=rf"corpus b has no document to store \({reasons}\)"):
        prepare(tmp_path, corpora, ByteLevel(), POLICY)
    assert not list(tmp_path.glob("*/MANIFEST.json"))


def test_no_corpora_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="corpora is empty"):
        prepare(tmp_path, {}, ByteLevel(), POLICY)


def test_the_embedded_corpora_are_prepared_offline(tmp_path: Path) -> None:
    corpora = {name: EmbeddedCorpus(name, num_documents=60) for name in ("biomedical", "web")}
    manifests = prepare(tmp_path, corpora, ByteLevel(), POLICY)
    for manifest in manifests.values():
        assert sum(totals.documents for totals in manifest.totals.values()) == 60
        assert not manifest.rejects


def test_an_interrupted_set_continues_to_identical_bytes(
    tmp_path: Path, content_of: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora = {"web": EmbeddedCorpus("web", num_documents=1_100)}
    prepare(tmp_path / "whole", corpora, ByteLevel(), POLICY)
    documents = EmbeddedCorpus.documents

    def interrupted(self: EmbeddedCorpus, shard: Any) -> Iterator[Document | Reject]:
        if shard.start == 500:
            raise KeyboardInterrupt
        return documents(self, shard)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedCorpus, "documents", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "cut", corpora, ByteLevel(), POLICY)
    prepare(tmp_path / "cut", corpora, ByteLevel(), POLICY)
    assert content_of(tmp_path / "cut") == content_of(tmp_path / "whole")
