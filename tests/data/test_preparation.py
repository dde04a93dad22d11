"""The prepare stage from corpora to stores."""

import io
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from biomamba.data.cleaning.near_duplicates import NearDuplicates
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.embedded import EmbeddedCorpus
from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.document import SPLITS, Document, Reject, SplitRule, document_key
from biomamba.data.prepare.pipeline import Job, prepare, summary, training_texts
from biomamba.data.raw_shards import Part
from biomamba.data.rows import LocalRows
from biomamba.data.store import writer as store_module
from biomamba.data.store.format import Manifest, read_index, verify_store
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel, Tokenizer, TrainedBpe, load_tokenizer
from biomamba.runtime.errors import ConfigError, DataError

POLICY = StorePolicy(val_permille=300, test_permille=300)
CLEANING = Cleaning(near_duplicates=NearDuplicates(num_perm=32))
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
    assert len(list(training_texts(corpora, shards, SplitRule(0, 0), Cleaning()))) == 40


def test_overlong_documents_train_no_tokenizer_and_are_counted(
    tmp_path: Path, make_corpus: Callable[..., Any]
) -> None:
    corpora = {"a": make_corpus([["x" * 8, "y" * 9, "z" * 8]])}
    shards = {"a": corpora["a"].shards()}
    cleaning = Cleaning(max_document_characters=8)
    texts = list(training_texts(corpora, shards, SplitRule(0, 0), cleaning))
    manifests = prepare(tmp_path, corpora, TrainedBpe(270), StorePolicy(0, 0), cleaning)

    assert texts == ["x" * 8, "z" * 8]
    assert manifests["a"].totals["train"].documents == 2
    assert manifests["a"].rejects == {"longer than 8 characters": 1}
    record = json.loads((tmp_path / "tokenizer.record.json").read_text())
    assert record["trained_on"]["max_document_characters"] == 8


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


def run(
    folder: Path, corpora: dict[str, Any], part: str | None = None, **options: Any
) -> dict[str, Manifest]:
    job = Job(part=None if part is None else Part.parse(part), **options)
    return prepare(folder, corpora, ByteLevel(), POLICY, CLEANING, job)


@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_change_no_byte(
    num_workers: int, tmp_path: Path, file_corpora: dict[str, Any], content_of: Content
) -> None:
    manifests = run(tmp_path / "one", file_corpora)
    assert run(tmp_path / "many", file_corpora, num_workers=num_workers) == manifests
    assert content_of(tmp_path / "many") == content_of(tmp_path / "one")
    # There is something to decide, within and across the corpora.
    assert manifests["a"].rejects["duplicate id"] == 12
    assert manifests["b"].rejects["duplicate text"] > 0


@pytest.mark.parametrize("count", [1, 3, 20])
def test_parts_change_no_byte(
    count: int, tmp_path: Path, file_corpora: dict[str, Any], content_of: Content
) -> None:
    run(tmp_path / "whole", file_corpora)
    for number in range(count, 0, -1):
        assert run(tmp_path / "parts", file_corpora, f"{number}/{count}") == {}
        assert not list(tmp_path.glob("parts/*/MANIFEST.json"))
    staged = content_of(tmp_path / "parts")
    assert sum(name.endswith(".bin") for name in staged) == 8
    run(tmp_path / "parts", file_corpora)
    assert content_of(tmp_path / "parts") == content_of(tmp_path / "whole")


def test_parts_may_overlap_and_leave_out_shards(
    tmp_path: Path, file_corpora: dict[str, Any], content_of: Content
) -> None:
    run(tmp_path / "whole", file_corpora)
    for part in ("1/2", "2/5", "1/2"):
        run(tmp_path / "parts", file_corpora, part, num_workers=2)
    run(tmp_path / "parts", file_corpora)
    assert content_of(tmp_path / "parts") == content_of(tmp_path / "whole")


def test_a_part_of_a_finished_set_changes_nothing(
    tmp_path: Path, file_corpora: dict[str, Any], content_of: Content
) -> None:
    run(tmp_path / "set", file_corpora)
    before = content_of(tmp_path / "set")
    run(tmp_path / "set", file_corpora, "1/2")
    assert content_of(tmp_path / "set") == before


def test_a_trained_tokenizer_is_made_by_the_first_part(
    tmp_path: Path, file_corpora: dict[str, Any], content_of: Content
) -> None:
    prepare(tmp_path / "whole", file_corpora, TrainedBpe(300), POLICY)
    for number in (2, 1):
        job = Job(part=Part(number, 2))
        prepare(tmp_path / "parts", file_corpora, TrainedBpe(300), POLICY, job=job)
    prepare(tmp_path / "parts", file_corpora, TrainedBpe(300), POLICY)
    assert content_of(tmp_path / "parts") == content_of(tmp_path / "whole")


_HOLDER = """
import sys
from pathlib import Path
from biomamba.data.raw_shards import Part
from biomamba.data.prepare.pipeline import set_locks
part = None if sys.argv[2] == "none" else Part.parse(sys.argv[2])
with set_locks(Path(sys.argv[1]), part):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("held", "asked", "is_refused"),
    [
        ("none", None, True),
        ("none", "1/2", True),
        ("1/2", None, True),
        ("1/2", "1/2", True),
        ("1/2", "2/2", False),
        ("1/2", "1/3", False),
    ],
)
def test_who_may_work_beside_another_process(
    held: str, asked: str | None, is_refused: bool, tmp_path: Path, corpora: dict[str, Any]
) -> None:
    command = [sys.executable, "-c", _HOLDER, str(tmp_path), held]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        if is_refused:
            with pytest.raises(DataError, match=r"another process is (preparing|staging part 1/2)"):
                run(tmp_path, corpora, asked)
        else:
            run(tmp_path, corpora, asked)
        holder.communicate("end\n")
    run(tmp_path, corpora)


def test_the_corpora_of_a_set_are_named_together(tmp_path: Path, corpora: dict[str, Any]) -> None:
    run(tmp_path, corpora)
    with pytest.raises(DataError, match=r"also holds b, and duplicates.*name these corpora too"):
        run(tmp_path, {"a": corpora["a"]})
    run(tmp_path, {"a": corpora["a"]}, "1/1")  # a part decides nothing


def test_a_corpus_added_later_leaves_a_store_alone_whose_decisions_stand(
    tmp_path: Path, corpora: dict[str, Any], content_of: Content
) -> None:
    run(tmp_path / "set", {"a": corpora["a"]})
    before = content_of(tmp_path / "set" / "a")
    run(tmp_path / "set", corpora)
    assert content_of(tmp_path / "set" / "a") == before
    run(tmp_path / "whole", corpora)
    assert content_of(tmp_path / "set") == content_of(tmp_path / "whole")


def test_a_corpus_added_later_is_compared_with_what_is_there(
    tmp_path: Path, make_corpus: Callable[..., Any], content_of: Content
) -> None:
    texts = [f"{number} common text of some words" for number in range(30)]
    first = make_corpus([[Document(text, f"b{i}", "y") for i, text in enumerate(texts)]])
    later = make_corpus([[Document(text, f"a{i}", "x") for i, text in enumerate(texts[:4])]])
    run(tmp_path / "set", {"b": first})
    before = content_of(tmp_path / "set" / "b")
    # Earlier in the order of the set, the new corpus takes documents from the store that is there.
    with pytest.raises(DataError, match=r"00000.json was written when other documents.*overwrite"):
        run(tmp_path / "set", {"a": later, "b": first})
    assert content_of(tmp_path / "set" / "b") == before
    assert verify_store(tmp_path / "set" / "b", "full")
    manifests = run(tmp_path / "set", {"a": later, "b": first}, overwrite=True)
    assert manifests["b"].rejects == {"duplicate text": 4}
    run(tmp_path / "whole", {"a": later, "b": first})
    assert content_of(tmp_path / "set") == content_of(tmp_path / "whole")


def test_a_later_corpus_that_yields_to_the_first_needs_no_rebuild(
    tmp_path: Path, make_corpus: Callable[..., Any]
) -> None:
    texts = [f"{number} common text of some words" for number in range(30)]
    first = make_corpus([[Document(text, f"b{i}", "y") for i, text in enumerate(texts)]])
    later = make_corpus([[Document(text, f"a{i}", "x") for i, text in enumerate(texts[:4])]])
    run(tmp_path, {"b": first})
    manifests = run(tmp_path, {"b": first, "a": make_corpus([["another"], *later_rows(later)])})
    assert manifests["a"].rejects == {"duplicate text": 4}


def later_rows(corpus: Any) -> list[Any]:
    return [list(shard.content) for shard in corpus.raw]


def test_a_rebuild_uses_staging_of_the_same_settings_again(
    tmp_path: Path, corpora: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, corpora, "1/1")
    unread = {
        name: replace(corpus, raw=[replace(shard, fail_at=0) for shard in corpus.raw])
        for name, corpus in corpora.items()
    }
    manifests = prepare(
        tmp_path, unread, ByteLevel(), StorePolicy(0, 0), CLEANING, Job(overwrite=True)
    )
    assert manifests["a"].totals["train"].documents == 30


def test_another_cleaning_is_refused(tmp_path: Path, corpora: dict[str, Any]) -> None:
    run(tmp_path, corpora)
    with pytest.raises(DataError, match=r"cleaning.near_duplicates.drop is False, asked for True"):
        prepare(
            tmp_path,
            corpora,
            ByteLevel(),
            POLICY,
            Cleaning(near_duplicates=NearDuplicates(num_perm=32, drop=True)),
        )


def test_the_order_and_number_of_raw_files_decide_nothing(
    tmp_path: Path, make_corpus: Callable[..., Any]
) -> None:
    """Equal and nearly equal texts and groups, dealt out to files in three ways."""
    rng = random.Random(0)
    words = [[f"w{rng.randrange(400)}" for _ in range(40)] for _ in range(30)]
    rows = []
    for i in range(150):
        text = list(words[i % 30])
        if i % 3:
            text[rng.randrange(40)] = "changed"
        rows.append(Document(" ".join(text), f"d{i}", "x", group=f"g{i % 50}" if i % 2 else None))
    kept = []
    for num_files in (1, 4, 11):
        rng.shuffle(rows)
        corpus = make_corpus([rows[number::num_files] for number in range(num_files)])
        manifest = run(tmp_path / str(num_files), {"a": corpus})["a"]
        kept.append({split: keys_of(tmp_path / str(num_files) / "a", split) for split in SPLITS})
        assert manifest.rejects["duplicate text"] == 150 - sum(map(len, kept[-1].values()))
    assert kept[0] == kept[1] == kept[2]
    assert all(kept[0].values())


def keys_of(store: Path, split: str) -> set[int]:
    return {
        key for path in store.glob(f"*.{split}.idx") for key in read_index(path)["key"].tolist()
    }


def test_documents_of_a_group_share_a_split(
    tmp_path: Path, make_corpus: Callable[..., Any]
) -> None:
    rows = [Document(f"note {i}", f"n{i}", "x", group=f"patient {i % 12}") for i in range(120)]
    run(tmp_path, {"notes": make_corpus([rows[:70], rows[70:]])})
    splits: dict[int, set[str]] = {}
    for path in (tmp_path / "notes").glob("*.idx"):
        for key in read_index(path)["key"].tolist():
            (number,) = (i for i in range(120) if document_key(f"n{i}") == key)
            splits.setdefault(number % 12, set()).add(path.name.split(".")[1])
    assert len(splits) == 12
    assert all(len(found) == 1 for found in splits.values())
    assert len(set().union(*splits.values())) == 3


def test_the_manifest_names_the_code_and_its_rewriting_is_avoided(
    tmp_path: Path,
    corpora: dict[str, Any],
    content_of: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifests = run(tmp_path, corpora)
    assert manifests["a"].code["version"] == version("biomamba")
    before = content_of(tmp_path)
    monkeypatch.setattr(store_module, "code_version", lambda: {"version": "99", "git": None})
    run(tmp_path, corpora)
    assert content_of(tmp_path) == before


def test_a_damaged_manifest_is_written_again(
    tmp_path: Path, corpora: dict[str, Any], content_of: Content
) -> None:
    run(tmp_path, corpora)
    before = content_of(tmp_path)
    (tmp_path / "a" / "MANIFEST.json").write_bytes(b"{}")
    run(tmp_path, corpora)
    assert content_of(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_workers": 0}, "num_workers must be .* at least 1, found 0"),
        ({"part": Part(1, 2), "overwrite": True}, "overwrite=true with part"),
    ],
)
def test_impossible_jobs_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Job(**options)


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ([""], "its raw files hold no rows"),
        (['{"text": null}\n'], "empty text: 1"),
        (['{"text": null}\n', '{"text": " "}\n', ""], "empty text: 2"),
    ],
)
def test_local_files_without_a_document_end_in_one_sentence(
    tmp_path: Path, contents: list[str], reason: str
) -> None:
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.jsonl").write_text(content)
    rows = LocalRows([str(tmp_path / "*.jsonl")])
    corpus = ColumnCorpus(rows, "x", "none", ["text"])

    with pytest.raises(DataError, match=rf"corpus a has no document to store \({reason}\)"):
        prepare(tmp_path / "set", {"a": corpus}, ByteLevel(), POLICY)


@pytest.mark.parametrize("first", ["", '{"text": null}\n'])
def test_a_first_file_without_documents_hinders_no_other(tmp_path: Path, first: str) -> None:
    (tmp_path / "0.jsonl").write_text(first)
    (tmp_path / "1.jsonl").write_text('{"text": "alpha"}\n')
    corpus = ColumnCorpus(LocalRows([str(tmp_path / "*.jsonl")]), "x", "none", ["text"])
    manifests = prepare(tmp_path / "set", {"a": corpus}, ByteLevel(), StorePolicy(0, 0))

    assert manifests["a"].totals["train"].documents == 1
    assert manifests["a"].rejects == ({"empty text": 1} if first else {})
