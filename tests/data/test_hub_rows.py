"""Hub streaming, tried on files on disk and on the loopback device through the same calls."""

import gzip
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations import http
from torch.utils.data import DataLoader, IterableDataset

from biomamba.data import remote as hub_faults
from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.remote import HubRows, Patience
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError

COMMIT = "0" * 40
QUICK = Patience(attempts=3, first_pause_seconds=0.0, timeout_seconds=0.5)
PASSING = ("429", "503", "drop", "hang", "refuse")
STAYING = ("401", "403", "404")


@pytest.fixture
def make_rows(tmp_path: Path) -> Callable[..., HubRows]:
    """Return make(**options): rows of three local files, four rows each."""
    files = []
    for number in range(3):
        path = tmp_path / f"part-{number}.jsonl"
        rows = [{"id": number * 4 + i, "text": f"t{i}", "extra": i} for i in range(4)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(str(path))

    def _make(**options: Any) -> HubRows:
        options = {"columns": ["id", "text"], "data_files": files} | options
        return HubRows(dataset="json", split="train", **options)

    return _make


def ids(rows: HubRows) -> list[list[int]]:
    return [[row["id"] for row in shard.rows() if isinstance(row, dict)] for shard in rows.shards()]


def test_one_file_becomes_one_shard(make_rows: Callable[..., HubRows]) -> None:
    assert ids(make_rows()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_only_the_named_columns_are_read(make_rows: Callable[..., HubRows]) -> None:
    first = next(make_rows().shards()[0].rows())
    assert first == {"id": 0, "text": "t0"}


def test_max_rows_is_the_head_of_the_stream(make_rows: Callable[..., HubRows]) -> None:
    assert ids(make_rows(max_rows=6)) == [[0, 1, 2, 3, 4, 5]]


def test_shards_have_distinct_names_and_fingerprints(make_rows: Callable[..., HubRows]) -> None:
    shards = make_rows().shards()
    assert len({shard.name for shard in shards}) == 3
    assert len({shard.fingerprint() for shard in shards}) == 3


def test_an_unpinned_revision_is_refused() -> None:
    with pytest.raises(ConfigError, match="pin a commit"):
        HubRows(dataset="allenai/c4", split="train", columns=["text"], revision="main")


@pytest.mark.parametrize("options", [{"columns": []}, {"max_rows": 0}, {"max_shards": 0}])
def test_empty_selections_are_refused(
    options: dict[str, Any], make_rows: Callable[..., HubRows]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_rows(**options)


def test_max_shards_are_the_first_files(make_rows: Callable[..., HubRows]) -> None:
    shards = make_rows(max_shards=2).shards()
    assert ids(make_rows(max_shards=2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [shard.name for shard in shards] == ["rows-00000-of-00003", "rows-00001-of-00003"]


def test_rows_and_shards_limited_give_equal_heads(make_rows: Callable[..., HubRows]) -> None:
    rows = make_rows(max_shards=3, max_rows=6)
    assert ids(rows) == [[0, 1], [4, 5], [8, 9]]
    assert rows.shards()[1].fingerprint() != make_rows().shards()[1].fingerprint()


class Shards(IterableDataset[list[int]]):
    """Each worker reads all shards."""

    def __init__(self, rows: HubRows) -> None:
        self.shards = rows.shards()

    def __iter__(self) -> Iterator[list[int]]:
        for shard in self.shards:
            yield [row["id"] for row in shard.rows() if isinstance(row, dict)]


def test_a_shard_is_whole_in_every_worker_of_a_loader(make_rows: Callable[..., HubRows]) -> None:
    loader = DataLoader(Shards(make_rows()), batch_size=None, num_workers=2)
    expected = ids(make_rows())
    assert sorted(loader) == sorted([*expected, *expected])


def test_a_shard_can_be_sent_to_another_process(make_rows: Callable[..., HubRows]) -> None:
    for options in ({}, {"max_rows": 6}, {"max_shards": 3, "max_rows": 6}):
        for shard in make_rows(**options).shards():
            assert list(pickle.loads(pickle.dumps(shard)).rows()) == list(shard.rows())


def test_more_shards_than_files_are_refused(make_rows: Callable[..., HubRows]) -> None:
    with pytest.raises(DataError, match="has 3 files, fewer than max_shards = 4"):
        make_rows(max_shards=4).shards()


def test_rows_that_shards_cannot_share_are_refused(make_rows: Callable[..., HubRows]) -> None:
    with pytest.raises(ConfigError, match="max_rows = 7 of json is no multiple of max_shards = 3"):
        make_rows(max_shards=3, max_rows=7)


def test_the_files_are_part_of_the_identity(make_rows: Callable[..., HubRows]) -> None:
    rows = make_rows()
    assert rows.data_files is not None
    assert rows.settings() != make_rows(data_files=rows.data_files[:2]).settings()


def test_a_stream_that_holds_something_else_is_named(make_rows: Callable[..., HubRows]) -> None:
    rows = make_rows()
    shard = rows.shards()[1]
    assert rows.data_files is not None
    Path(rows.data_files[1]).write_text('{"id": 4, "text": "cut')
    with pytest.raises(DataError, match="does not hold what the settings say"):
        list(shard.rows())


@pytest.fixture(scope="module")
def compressed() -> bytes:
    """JSON lines over 10 MB: `datasets` parses them in parts of that size."""
    lines = [
        json.dumps({"id": i, "text": f"text {i}", "pad": os.urandom(7_000).hex()}) + "\n"
        for i in range(1_000)
    ]
    return gzip.compress("".join(lines).encode(), compresslevel=1)


@pytest.fixture
def remote(fault_server: Any, monkeypatch: pytest.MonkeyPatch, compressed: bytes) -> Any:
    """Serve a file that is fetched in blocks of 1 MiB."""
    monkeypatch.setattr(http, "DEFAULT_BLOCK_SIZE", 1 << 20)
    http.HTTPFileSystem.clear_instance_cache()
    fault_server.files["f.json.gz"] = compressed
    yield fault_server
    http.HTTPFileSystem.clear_instance_cache()


def remote_rows(server: Any) -> HubRows:
    return HubRows(
        dataset="json",
        split="train",
        columns=["id", "text"],
        data_files=[f"{server.url}f.json.gz"],
        patience=QUICK,
    )


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_while_resolving_changes_nothing(fault: str, remote: Any) -> None:
    remote.faults["f.json.gz"] = [fault, fault]
    assert ids(remote_rows(remote)) == [list(range(1_000))]
    assert not remote.faults["f.json.gz"]


@pytest.mark.parametrize("fault", STAYING)
def test_a_refusal_while_resolving_is_named_at_once(fault: str, remote: Any) -> None:
    remote.faults["f.json.gz"] = [fault] * 50
    with pytest.raises(DataError, match=rf"f\.json\.gz answers {fault}"):
        remote_rows(remote).shards()
    assert len(remote.requests) <= 3


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_in_mid_stream_changes_nothing(fault: str, remote: Any) -> None:
    # Left to itself, `datasets` repeats the read after the bytes that it had decompressed.
    found = []
    for number, row in enumerate(remote_rows(remote).shards()[0].rows()):
        if number == 100:
            remote.late_faults["f.json.gz"] = [fault]
        found.append(row["id"] if isinstance(row, dict) else None)
    assert found == list(range(1_000))
    assert not remote.late_faults["f.json.gz"]


@pytest.mark.parametrize("fault", STAYING)
def test_a_refusal_in_mid_stream_is_named_at_once(fault: str, remote: Any) -> None:
    rows = remote_rows(remote).shards()[0].rows()
    for _ in range(50):
        next(rows)
    remote.faults["f.json.gz"] = [fault] * 50
    with pytest.raises(DataError, match=rf"f\.json\.gz:0/1 answers {fault}"):
        list(rows)
    assert len(remote.faults["f.json.gz"]) >= 47


def test_a_server_that_stays_away_ends_the_stream(remote: Any) -> None:
    rows = remote_rows(remote).shards()[0].rows()
    next(rows)
    remote.faults["f.json.gz"] = ["503"] * 50
    with pytest.raises(DataError, match="status 503, 3 failures in a row"):
        list(rows)


@pytest.fixture
def prepared(
    remote: Any, tmp_path: Path, byte_tokenizer: Tokenizer, write_corpus: Callable[..., Any]
) -> Callable[[str], Path]:
    """Return write(name): the store of the served rows, written with the faults that are set."""

    def _write(name: str) -> Path:
        corpus = ColumnCorpus(remote_rows(remote), "test", "none", ["text"], "id")
        write_corpus(tmp_path / name / "c", corpus, byte_tokenizer, StorePolicy(10, 10))
        return tmp_path / name / "c"

    return _write


@pytest.mark.parametrize("fault", PASSING)
def test_a_store_prepared_through_faults_is_the_same(
    fault: str,
    remote: Any,
    prepared: Callable[[str], Path],
    content_of: Callable[[Path], dict[str, bytes]],
) -> None:
    expected = content_of(prepared("calm"))
    remote.faults["f.json.gz"], remote.late_faults["f.json.gz"] = [fault], [fault]
    assert content_of(prepared("stormy")) == expected
    assert not remote.faults["f.json.gz"]
    assert not remote.late_faults["f.json.gz"]


@pytest.mark.parametrize("fault", ["403", "404"])
def test_prepare_names_a_refusal_at_once(
    fault: str, remote: Any, prepared: Callable[[str], Path]
) -> None:
    remote.late_faults["f.json.gz"] = [fault] * 50
    with pytest.raises(DataError, match=rf"f\.json\.gz answers {fault}"):
        prepared("refused")
    assert len(remote.late_faults["f.json.gz"]) >= 48


def test_a_failing_hub_is_asked_again_and_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("503")

    class Hub:
        def dataset_info(self, *_: Any, **__: Any) -> None:
            raise ConnectionError("no hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr(hub_faults, "HfApi", Hub)
    rows = HubRows("some/set", "train", ["text"], revision=COMMIT, patience=QUICK)
    with pytest.raises(DataError, match=r"cannot read some/set@0000.*3 failures in a row"):
        rows.shards()


def no_script(folder: Path) -> dict[str, Any]:
    (folder / "set.py").write_text("raise SystemExit('run')")
    target = folder.rename(folder.with_name("set"))
    return {"dataset": str(target), "revision": COMMIT, "data_files": None}


def nulls_first(folder: Path) -> dict[str, Any]:
    (folder / "a.jsonl").write_text('{"id": 1, "text": null}\n')
    (folder / "b.jsonl").write_text('{"id": 2, "text": "b"}\n')
    return {"data_files": [str(folder / name) for name in ("a.jsonl", "b.jsonl")]}


def empty_file(folder: Path) -> dict[str, Any]:
    (folder / "a.jsonl").touch()
    return {"data_files": [str(folder / "a.jsonl")]}


def rowless_parquet(folder: Path) -> dict[str, Any]:
    empty = pa.table({"id": pa.array([], pa.int64()), "text": pa.array([], pa.string())})
    pq.write_table(empty, folder / "a.parquet")
    return {"dataset": "parquet", "data_files": [str(folder / "a.parquet")]}


def late_date(folder: Path) -> dict[str, Any]:
    late = pa.table({"id": pa.array([2**62], pa.timestamp("us")), "text": ["a"]})
    pq.write_table(late, folder / "a.parquet")
    return {"dataset": "parquet", "data_files": [str(folder / "a.parquet")]}


def other_text(folder: Path) -> dict[str, Any]:
    ends, content = pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")
    text = pa.Array.from_buffers(pa.string(), 1, [None, ends, content])
    pq.write_table(pa.table({"id": [1], "text": text}), folder / "a.parquet")
    return {"dataset": "parquet", "data_files": [str(folder / "a.parquet")]}


def test_an_empty_first_file_is_a_shard_without_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.jsonl").write_text('{"id": 2, "text": "b"}\n')
    files = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]

    assert ids(HubRows("json", "train", ["id", "text"], data_files=files)) == [[], [2]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (rowless_parquet, "a Parquet file holds no rows; leave it out"),
        (late_date, r"does not hold what the settings say \(OverflowError"),
        (other_text, r"does not hold what the settings say \(UnicodeDecodeError"),
        (no_script, "needs a loading script, and no code of others is run"),
        (nulls_first, "only nulls in the first one"),
        (empty_file, "holds no rows"),
    ],
)
def test_data_sets_that_cannot_be_read_end_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], dict[str, Any]], words: str
) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    options = {"dataset": "json", "split": "train", "columns": ["id", "text"], "patience": QUICK}
    rows = HubRows(**(options | make(folder)))

    with pytest.raises(DataError, match=words):
        ids(rows)


def test_a_defect_of_the_program_is_not_called_a_column_of_other_types(
    monkeypatch: pytest.MonkeyPatch, make_rows: Callable[..., HubRows]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TypeError("load_dataset() got an unexpected keyword argument")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(TypeError, match="unexpected keyword"):
        make_rows().shards()
