"""Writing a store: continuation, crashes, locks, refusals."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import Document, DocumentFacts, MeshTerm, Reject
from biomamba.data.store import writer as store_module
from biomamba.data.store.format import Manifest, ShardRecord, read_index, verify_store
from biomamba.data.store.writer import Store, StorePolicy
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import read_sealed, write_sealed

POLICY = StorePolicy(val_permille=200, test_permille=200)
ANIMALS = MeshTerm("D000818", "Animals")
# Of some documents of the first and the third raw shard facts are known, of the others none.
SHARDS = [
    [
        Document(
            f"shard {number} text {i}",
            f"{number}-{i}",
            "test",
            facts=DocumentFacts(2000 + i, (ANIMALS,) * (i % 2))
            if number % 2 == 0 and i % 3
            else None,
        )
        for i in range(15)
    ]
    for number in range(4)
]
Content = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def corpus(make_corpus: Callable[..., Any]) -> Any:
    return make_corpus(SHARDS)


@pytest.fixture
def write(write_corpus: Callable[..., Manifest], byte_tokenizer: Tokenizer) -> Callable[..., Any]:
    """Return write(folder, corpus, policy=..., overwrite=False)."""

    def _write(folder: Path, corpus: Any, policy: StorePolicy = POLICY, **options: bool) -> Any:
        return write_corpus(folder, corpus, byte_tokenizer, policy, **options)

    return _write


def interrupted(corpus: Any, shard: int) -> Any:
    """Return the corpus with an interruption in the middle of one shard."""
    raw = list(corpus.raw)
    raw[shard] = replace(raw[shard], fail_at=7)
    return replace(corpus, raw=raw)


def test_two_writes_give_identical_bytes(
    tmp_path: Path, corpus: Any, write: Callable[..., Any], content_of: Content
) -> None:
    write(tmp_path / "a", corpus)
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "a", corpus)
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b" / "a")


def test_a_rerun_reads_no_document_again(
    tmp_path: Path, corpus: Any, write: Callable[..., Any], content_of: Content
) -> None:
    write(tmp_path / "a", corpus)
    before = content_of(tmp_path / "a")
    fails_if_read = replace(corpus, raw=[replace(shard, fail_at=0) for shard in corpus.raw])
    write(tmp_path / "a", fails_if_read)
    assert content_of(tmp_path / "a") == before


@pytest.mark.parametrize("shard", range(4))
def test_an_interrupted_write_continues_to_identical_bytes(
    shard: int, tmp_path: Path, corpus: Any, write: Callable[..., Any], content_of: Content
) -> None:
    write(tmp_path / "whole", corpus)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cut" / "whole", interrupted(corpus, shard))
    assert not (tmp_path / "cut" / "whole" / "MANIFEST.json").exists()
    write(tmp_path / "cut" / "whole", corpus)
    assert content_of(tmp_path / "cut" / "whole") == content_of(tmp_path / "whole")


@pytest.mark.parametrize("calls", [1, 3, 8, 14])
def test_a_killed_write_continues_to_identical_bytes(
    calls: int,
    tmp_path: Path,
    corpus: Any,
    write: Callable[..., Any],
    content_of: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "killed" / "whole"
    write(tmp_path / "whole", corpus)
    child = os.fork()
    if child == 0:
        _die_at_replace(calls, monkeypatch)
        with suppress(BaseException):
            write(folder, corpus)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    write(folder, corpus)
    assert content_of(folder) == content_of(tmp_path / "whole")


def _die_at_replace(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill this process at its n-th rename: between two files of a shard, or before its record."""
    left = iter(range(calls))
    replace_file = Path.replace

    def replace_or_die(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", replace_or_die)


@pytest.mark.parametrize(
    ("num_syncs", "committed"), [(11, "staging/00000.json"), (46, "00000.json")]
)
def test_a_full_disk_keeps_the_committed_shards(
    num_syncs: int,  # staging takes 7, finishing 9; of a shard with facts 8 and 12
    committed: str,
    tmp_path: Path,
    corpus: Any,
    write: Callable[..., Any],
    content_of: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "whole", corpus)
    folder = tmp_path / "full" / "whole"
    with monkeypatch.context() as patch:
        left = iter(range(num_syncs))

        def full(descriptor: int) -> None:
            if next(left, None) is None:
                raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"No space left on device.*make room"):
            write(folder, corpus)
    names = set(content_of(folder))
    assert committed in names
    assert "MANIFEST.json" not in names
    assert not [name for name in names if name.endswith(".tmp")]
    write(folder, corpus)
    assert content_of(folder) == content_of(tmp_path / "whole")


def test_a_second_writer_is_refused(tmp_path: Path, corpus: Any, write: Callable[..., Any]) -> None:
    class Nested(type(corpus)):  # type: ignore[misc]
        def documents(self, shard: Any) -> Iterator[Document | Reject]:
            write(tmp_path / "a", corpus)
            return super().documents(shard)

    with pytest.raises(DataError, match="another process is writing"):
        write(tmp_path / "a", Nested(**vars(corpus)))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"policy": StorePolicy(200, 201)}, "split.test_permille is 200, asked for 201"),
        ({"domain": "other"}, "domain is 'test', asked for 'other'"),
        ({"options": {"min_chars": 3}}, "corpus.min_chars is None, asked for 3"),
    ],
)
def test_other_settings_are_refused_by_name(
    change: dict[str, Any], match: str, tmp_path: Path, corpus: Any, write: Callable[..., Any]
) -> None:
    write(tmp_path / "a", corpus)
    policy = change.pop("policy", POLICY)
    with pytest.raises(DataError, match=match):
        write(tmp_path / "a", replace(corpus, **change), policy)


def test_another_tokenizer_is_refused(
    tmp_path: Path, corpus: Any, write: Callable[..., Any], write_corpus: Callable[..., Any]
) -> None:
    write(tmp_path / "a", corpus)
    with pytest.raises(DataError, match="tokenizer is"):
        write_corpus(tmp_path / "a", corpus, Tokenizer.train_bpe(["ab ab"], 258), POLICY)


def test_changed_raw_content_is_refused(
    tmp_path: Path, corpus: Any, make_corpus: Callable[..., Any], write: Callable[..., Any]
) -> None:
    write(tmp_path / "a", corpus)
    with pytest.raises(DataError, match=r"00001.json was made from"):
        write(tmp_path / "a", make_corpus([SHARDS[0], ["changed"], *SHARDS[2:]]))


def test_fewer_raw_shards_are_refused(
    tmp_path: Path, corpus: Any, make_corpus: Callable[..., Any], write: Callable[..., Any]
) -> None:
    write(tmp_path / "a", corpus)
    with pytest.raises(DataError, match="no such raw shard"):
        write(tmp_path / "a", make_corpus(SHARDS[:2]))


def test_more_raw_shards_extend_the_store(
    tmp_path: Path,
    corpus: Any,
    make_corpus: Callable[..., Any],
    write: Callable[..., Any],
    content_of: Content,
) -> None:
    write(tmp_path / "a", make_corpus(SHARDS[:2]))
    write(tmp_path / "a", corpus)
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "a", corpus)
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b" / "a")


def test_an_extension_that_is_interrupted_while_staging_leaves_the_store_whole(
    tmp_path: Path, corpus: Any, make_corpus: Callable[..., Any], write: Callable[..., Any]
) -> None:
    manifest = write(tmp_path / "a", make_corpus(SHARDS[:2]))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", interrupted(corpus, 3))
    assert verify_store(tmp_path / "a", "full") == manifest


def test_an_extension_that_is_interrupted_while_finishing_leaves_no_manifest(
    tmp_path: Path,
    corpus: Any,
    make_corpus: Callable[..., Any],
    write: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "a", make_corpus(SHARDS[:2]))

    def interrupted_finish(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_token_shard", interrupted_finish)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "a", corpus)
    with pytest.raises(DataError, match="is not finished"):
        Manifest.read(tmp_path / "a")


@pytest.mark.parametrize(
    "name", ["00000.val.bin", "00003.test.idx", "00001.val.facts", ".00000.json.1f.tmp"]
)
def test_what_a_crash_left_is_removed(
    name: str, tmp_path: Path, corpus: Any, write: Callable[..., Any], content_of: Content
) -> None:
    only_train = StorePolicy(0, 0)
    write(tmp_path / "whole", corpus, only_train)
    folder = tmp_path / "crashed" / "whole"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"left")
    write(folder, corpus, only_train)
    assert content_of(folder) == content_of(tmp_path / "whole")


def test_the_staged_tokens_go_once_the_manifest_is_there(
    tmp_path: Path,
    corpus: Any,
    write: Callable[..., Any],
    content_of: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted_manifest(*_: object) -> None:
        raise KeyboardInterrupt

    staging = tmp_path / "a" / "staging"
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", interrupted_manifest)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "a", corpus)
    assert len(list(staging.glob("*.bin"))) == 4
    write(tmp_path / "a", corpus)
    assert not list(staging.glob("*.bin"))
    before = content_of(tmp_path / "a")
    (staging / "00000.bin").write_bytes(b"left by a crash after the manifest")
    write(tmp_path / "a", corpus)
    assert content_of(tmp_path / "a") == before


def test_a_store_of_an_older_version_is_refused_and_can_be_rebuilt(
    tmp_path: Path, corpus: Any, write: Callable[..., Any]
) -> None:
    manifest = write(tmp_path / "a", corpus)
    path = tmp_path / "a" / "00001.json"
    old = read_sealed(path)
    del old["decisions"]
    write_sealed(path, old)
    with pytest.raises(DataError, match=r"00001.json is no shard record of.*overwrite=true"):
        write(tmp_path / "a", corpus)
    assert write(tmp_path / "a", corpus, overwrite=True) == manifest


def test_overwrite_rebuilds_with_other_settings(
    tmp_path: Path, corpus: Any, write: Callable[..., Any]
) -> None:
    write(tmp_path / "a", corpus)
    write(tmp_path / "a", corpus, StorePolicy(0, 0), overwrite=True)
    assert {path.name for path in (tmp_path / "a").glob("*.bin")} == {
        f"0000{number}.train.bin" for number in range(4)
    }


def test_a_damaged_committed_shard_is_refused_on_a_rerun(
    tmp_path: Path, corpus: Any, write: Callable[..., Any]
) -> None:
    write(tmp_path / "a", corpus)
    path = tmp_path / "a" / "00002.train.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"00002\.train\.bin has"):
        write(tmp_path / "a", corpus)


def test_a_document_repeated_in_a_later_shard_is_left_out_also_after_a_restart(
    tmp_path: Path, make_corpus: Callable[..., Any], write: Callable[..., Any]
) -> None:
    shards = [[Document("a", "same", "x")], [Document("b", "same", "x"), Document("c", "2", "x")]]
    corpus = make_corpus(shards)
    raw = [corpus.raw[0], replace(corpus.raw[1], fail_at=0)]
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", replace(corpus, raw=raw))
    manifest = write(tmp_path / "a", corpus)
    assert manifest.rejects == {"duplicate id": 1}
    assert sum(totals.documents for totals in manifest.totals.values()) == 2


def test_no_document_is_in_two_splits_and_resharding_moves_none(
    tmp_path: Path, make_corpus: Callable[..., Any], write: Callable[..., Any]
) -> None:
    documents = [Document(f"text {i}", str(i), "x") for i in range(90)]
    for name, num_shards in (("two", 2), ("five", 5)):
        write(tmp_path / name, make_corpus([documents[n::num_shards] for n in range(num_shards)]))
    splits = {}
    for name in ("two", "five"):
        for split in ("train", "val", "test"):
            files = (tmp_path / name).glob(f"*.{split}.idx")
            splits[name, split] = set(np.concatenate([read_index(f)["key"] for f in files]))
    for split in ("train", "val", "test"):
        assert splits["two", split] == splits["five", split]
    assert sum(len(splits["two", split]) for split in ("train", "val", "test")) == 90


@pytest.mark.parametrize(("num_damaged", "is_refused"), [(2, False), (3, True)])
def test_too_many_damaged_rows_stop_the_stage(
    num_damaged: int,
    is_refused: bool,
    tmp_path: Path,
    make_corpus: Callable[..., Any],
    write: Callable[..., Any],
) -> None:
    damaged = [Reject("row is not JSON", f"row {i}", is_damaged=True) for i in range(num_damaged)]
    rows = [*damaged, *(f"text {i}" for i in range(20 - num_damaged))]
    policy = StorePolicy(0, 0, max_bad_fraction=0.1)
    if is_refused:
        with pytest.raises(DataError, match=r"3 of 20 rows of raw shard raw-0.*row is not JSON at"):
            write(tmp_path / "a", make_corpus([rows]), policy)
        assert not list((tmp_path / "a").glob("0*"))
    else:
        assert write(tmp_path / "a", make_corpus([rows]), policy).rejects == {"row is not JSON": 2}


def test_rows_left_out_by_policy_never_stop_the_stage(
    tmp_path: Path, make_corpus: Callable[..., Any], write: Callable[..., Any]
) -> None:
    rows = [Reject("too short", None), Reject("too short", None), "text"]
    manifest = write(tmp_path / "a", make_corpus([rows]), StorePolicy(0, 0))
    assert manifest.rejects == {"too short": 2}


def test_a_finished_store_verifies_and_names_its_raw_shards(
    tmp_path: Path, corpus: Any, write: Callable[..., Any]
) -> None:
    manifest = write(tmp_path / "a", corpus)
    assert verify_store(tmp_path / "a", "full") == manifest
    record = ShardRecord.read(tmp_path / "a" / "00003.json")
    assert record.raw_name == "raw-3"


def test_impossible_tolerance_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_bad_fraction must be .*, found 1.5"):
        StorePolicy(0, 0, max_bad_fraction=1.5)


def test_the_manifest_goes_before_anything_else_when_overwriting(
    tmp_path: Path,
    corpus: Any,
    write: Callable[..., Any],
    byte_tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "a", corpus)
    removed: list[str] = []
    unlink = Path.unlink

    def record(self: Path, missing_ok: bool = False) -> None:
        removed.append(self.name)
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", record)
    Store(tmp_path / "a", corpus, corpus.shards(), byte_tokenizer, POLICY, Cleaning()).clear()
    assert removed[0] == "MANIFEST.json"
