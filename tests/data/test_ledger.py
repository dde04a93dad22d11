"""Reading, cutting and copying a ledger."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from biomamba.data.ledger import (
    ENTRY_DTYPE,
    Chunk,
    Ledger,
    Origin,
    Span,
    chunk_spans,
    copy_ledger,
    cut_ledger,
    num_recorded_steps,
)
from biomamba.runtime.errors import DataError

ORIGIN = Origin("stream", ["pubmed", "web"], {})
NUM_STEPS, ROWS_PER_STEP = 12, 8


def step_rows(step: int, first: int, end: int) -> NDArray[Any]:
    """Return rows `first` to `end` of a step; row r has 0 to 2 pieces, a function of both."""
    rows = []
    for row in range(first, end):
        generator = np.random.default_rng([step, row])
        for _ in range(generator.integers(0, 3)):
            key, start, tokens = generator.integers(1, 1_000, size=3).tolist()
            rows.append((step, int(generator.integers(2)), key, start, tokens))
    return np.array(rows, dtype=ENTRY_DTYPE)


def global_entries(first: int = 0, end: int = NUM_STEPS) -> NDArray[Any]:
    parts = [step_rows(step, 0, ROWS_PER_STEP) for step in range(first, end)]
    return np.concatenate([np.empty(0, dtype=ENTRY_DTYPE), *parts])


def write(folder: Path, first: int, end: int, world_size: int, rank: int) -> None:
    """Write the chunk of one rank, as a run would."""
    size = ROWS_PER_STEP // world_size
    parts = [step_rows(step, rank * size, (rank + 1) * size) for step in range(first, end)]
    Chunk(ORIGIN, Span(first, end, rank, world_size), np.concatenate(parts)).write(folder)


def write_all(folder: Path, *sections: tuple[int, int, int]) -> Path:
    """Write sections of (first step, end step, world size)."""
    for first, end, world_size in sections:
        for rank in range(world_size):
            write(folder, first, end, world_size, rank)
    return folder


@pytest.mark.parametrize(
    "sections",
    [
        [(0, 12, 1)],
        [(0, 5, 1), (5, 12, 1)],
        [(0, 12, 8)],
        [(0, 3, 2), (3, 4, 2), (4, 9, 1), (9, 12, 4)],
    ],
)
def test_all_ranks_together_are_the_global_steps(
    sections: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    ledger = Ledger(write_all(tmp_path, *sections))
    assert np.array_equal(np.concatenate(list(ledger.chunks())), global_entries())
    steps = list(ledger.steps())
    assert [step for step, _ in steps] == list(range(12))
    for step, entries in steps:
        assert np.array_equal(entries, global_entries(step, step + 1))
    assert (ledger.num_steps, ledger.end_step, ledger.gaps) == (12, 12, [])


def test_a_folder_without_a_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no ledger in .*runs/x/ledger"):
        Ledger(tmp_path / "runs" / "x" / "ledger")


def test_a_missing_rank_is_named(tmp_path: Path) -> None:
    write_all(tmp_path, (0, 4, 2), (4, 8, 2))
    (tmp_path / Span(0, 4, 1, 2).name).unlink()
    with pytest.raises(DataError, match=r"lacks \['00000000-00000004\.rank-1-of-2\.ledger'\]"):
        Ledger(tmp_path)


def test_steps_that_nobody_recorded_are_gaps(tmp_path: Path) -> None:
    ledger = Ledger(write_all(tmp_path, (2, 4, 1), (6, 8, 2)))
    assert (ledger.gaps, ledger.num_steps, ledger.end_step) == ([(0, 2), (4, 6)], 4, 8)
    assert [step for step, _ in ledger.steps()] == [2, 3, 6, 7]


def test_overlapping_chunks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="overlap"):
        Ledger(write_all(tmp_path, (0, 5, 1), (4, 8, 1)))


def test_steps_that_only_some_ranks_wrote_before_the_end_are_left_out(tmp_path: Path) -> None:
    write_all(tmp_path, (0, 4, 2))
    write(tmp_path, 4, 8, world_size=2, rank=0)
    ledger = Ledger(tmp_path)
    assert (ledger.end_step, ledger.num_unfinished_steps) == (4, 4)
    # The other rank got less far.
    write(tmp_path, 4, 7, world_size=2, rank=1)
    ledger = Ledger(tmp_path)
    assert (ledger.end_step, ledger.num_unfinished_steps) == (7, 1)
    assert np.array_equal(np.concatenate(list(ledger.chunks())), global_entries(0, 7))


def test_a_ledger_without_a_finished_step_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 0, 4, world_size=2, rank=1)
    with pytest.raises(DataError, match="no step that all ranks wrote"):
        Ledger(tmp_path)


def test_a_chunk_of_another_run_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path, (0, 4, 1))
    other = replace(ORIGIN, fingerprint="other")
    Chunk(other, Span(4, 8, 0, 1), global_entries(4, 8)).write(tmp_path)
    with pytest.raises(DataError, match=r"00000000-00000004.* of another run: its fingerprint"):
        list(Ledger(tmp_path).chunks())


def test_a_damaged_chunk_is_named_when_it_is_read(tmp_path: Path) -> None:
    write_all(tmp_path, (0, 4, 1), (4, 8, 1))
    path = tmp_path / Span(0, 4, 0, 1).name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"00000000-00000004\.rank-0-of-1\.ledger is damaged"):
        list(Ledger(tmp_path).chunks())


@pytest.mark.parametrize("step", range(13))
def test_a_cut_ledger_holds_the_steps_before(step: int, tmp_path: Path) -> None:
    write_all(tmp_path, (0, 3, 2), (3, 7, 4), (7, 12, 1))
    cut_ledger(tmp_path, step, "stream")
    if step == 0:
        assert chunk_spans(tmp_path) == []
        return
    ledger = Ledger(tmp_path)
    assert np.array_equal(np.concatenate(list(ledger.chunks())), global_entries(0, step))
    assert (ledger.gaps, ledger.end_step, ledger.num_unfinished_steps) == ([], step, 0)


def test_a_cut_removes_what_a_kill_left_and_chunks_of_another_stream(tmp_path: Path) -> None:
    write_all(tmp_path, (0, 3, 1))
    (tmp_path / ".00000003-00000006.rank-0-of-1.ledger.1a2b3c4d.tmp").write_bytes(b"half")
    other = replace(ORIGIN, fingerprint="other")
    Chunk(other, Span(3, 5, 0, 1), global_entries(3, 5)).write(tmp_path)
    cut_ledger(tmp_path, 5, "stream")
    assert [path.name for path in tmp_path.iterdir()] == [Span(0, 3, 0, 1).name]


def test_a_cut_after_a_killed_cut_mends_it(tmp_path: Path) -> None:
    # The shorter chunk was written, the longer one not yet removed.
    write_all(tmp_path, (0, 3, 1), (3, 5, 1), (3, 7, 1))
    cut_ledger(tmp_path, 5, "stream")
    assert chunk_spans(tmp_path) == [Span(0, 3, 0, 1), Span(3, 5, 0, 1)]


def test_steps_are_counted_that_all_ranks_wrote_before_a_step(tmp_path: Path) -> None:
    write_all(tmp_path, (2, 5, 2), (5, 6, 1), (6, 9, 4))
    (tmp_path / Span(6, 9, 3, 4).name).unlink()
    counts = {step: num_recorded_steps(tmp_path, step) for step in (2, 4, 6, 9)}
    assert counts == {2: 0, 4: 2, 6: 4, 9: 4}
    assert num_recorded_steps(tmp_path / "none", 9) == 0


def test_a_copy_holds_the_steps_before_and_leaves_the_source_alone(tmp_path: Path) -> None:
    source = write_all(tmp_path / "source", (0, 3, 2), (3, 7, 1), (7, 9, 1))
    before = sorted(path.read_bytes() for path in source.iterdir())
    copy_ledger(source, tmp_path / "target", 5, "stream")
    copied = np.concatenate(list(Ledger(tmp_path / "target").chunks()))
    assert np.array_equal(copied, global_entries(0, 5))
    assert sorted(path.read_bytes() for path in source.iterdir()) == before
    copy_ledger(source, tmp_path / "foreign", 5, "other")
    assert chunk_spans(tmp_path / "foreign") == []
