"""What the progress lines say."""

from pathlib import Path

import pytest

from biomamba.data.prepare import pipeline as prepare_progress_module
from biomamba.data.prepare.pipeline import PrepareProgress, shard_sizes
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
    clock = Clock()
    monkeypatch.setattr(prepare_progress_module, "time", clock)
    with PrepareProgress() as progress:
        phase = progress.phase("stage a", {0: 100.0, 1: 100.0, 2: 600.0})
        fields = progress._progress.tasks[0].fields
        clock.now = 1000.0  # until here other corpora had their turn
        phase.rows(1, 2_500)
        clock.now += 100.0
        phase.rows(1, 2_500)
        phase.shard(1)  # 100 of 800 bytes in 100 s
        assert fields["rate"] == "50 rows/s 0:11:40 left"
        assert fields["shards"] == "1/3 shards"
        phase.shard(0)  # was there already and took no time: does not change the speed
        assert fields["rate"] == "50 rows/s 0:10:00 left"
        assert progress._progress.tasks[0].completed == 200.0
    assert not capsys.readouterr().out


def test_a_log_that_is_no_terminal_gets_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(prepare_progress_module, "time", clock)
    with PrepareProgress() as progress:
        phase = progress.phase("stage a", {0: 1.0, 1: 1.0})
        phase.rows(0, 0)
        for _ in range(130):
            clock.now += 1.0
            phase.rows(0, 60)
        lines = capsys.readouterr().err.splitlines()
    assert lines == ["stage a 0/2 shards 60 rows/s"] * 2


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now
