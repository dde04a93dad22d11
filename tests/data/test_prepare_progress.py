"""What the progress lines say."""

from pathlib import Path

import pytest

from biomamba.data import prepare_progress as prepare_progress_module
from biomamba.data.prepare_progress import PrepareProgress, shard_sizes
from biomamba.data.rows import LocalShard, RawShard


class Unsized:
    """A raw shard that is no file."""

    name = "stream"


def test_sizes_are_bytes_where_all_shards_are_files(tmp_path: Path) -> None:
    shards: list[RawShard] = []
    for number in range(3):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(b"x" * number)
        shards.append(LocalShard(path))
    assert shard_sizes(shards) == [0.0, 1.0, 2.0]
    assert shard_sizes([*shards, Unsized()]) == [1.0] * 4  # type: ignore[list-item]
    assert shard_sizes([]) == []


def test_the_line_tells_rows_shards_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([0.0, 10.0, 100.0, 100.0])
    monkeypatch.setattr(prepare_progress_module.time, "monotonic", lambda: next(seconds))
    with PrepareProgress() as progress:
        phase = progress.phase("stage a", {0: 100.0, 1: 100.0, 2: 600.0})
        phase.rows(1, 5_000)
        phase.shard(1)  # 100 of 800 bytes in 100 s
        fields = progress._progress.tasks[0].fields
        assert fields["rate"] == "50 rows/s 0:11:40 left"
        assert fields["shards"] == "1/3 shards"
        phase.shard(0)  # was there already and took no time: does not change the speed
        assert fields["rate"] == "50 rows/s 0:10:00 left"
        assert progress._progress.tasks[0].completed == 200.0
    assert not capsys.readouterr().out
