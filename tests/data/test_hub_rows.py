"""Hub streaming, tried on local files through the same library calls."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from biomamba.data import hub_rows
from biomamba.data.hub_rows import HubRows
from biomamba.runtime.errors import ConfigError, DataError

COMMIT = "0" * 40


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


@pytest.mark.parametrize("options", [{"columns": []}, {"max_rows": 0}])
def test_empty_selections_are_refused(
    options: dict[str, Any], make_rows: Callable[..., HubRows]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_rows(**options)


def test_a_failing_hub_is_asked_again_and_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def refuse(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("503")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr(hub_rows.time, "sleep", pauses.append)
    rows = HubRows(dataset="some/set", split="train", columns=["text"], revision=COMMIT)
    with pytest.raises(DataError, match="cannot open some/set@0000"):
        rows.shards()
    assert pauses == [2.0, 4.0, 8.0, 16.0]


def test_a_stream_that_breaks_is_named(make_rows: Callable[..., HubRows]) -> None:
    rows = make_rows()
    shard = rows.shards()[1]
    assert rows.data_files is not None
    Path(rows.data_files[1]).write_text('{"id": 4, "text": "cut')
    with pytest.raises(DataError, match="run prepare again"):
        list(shard.rows())
