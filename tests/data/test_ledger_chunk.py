"""The files of a ledger."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from biomamba.data.ledger import ENTRY_DTYPE, Chunk, Origin, Span
from biomamba.runtime.errors import DataError

ORIGIN = Origin("stream", ["pubmed", "web"], {"pubmed": ["data/pubmed"]})
# Step 6 consumed nothing; the widest values of every column.
ROWS = [
    (5, 0, 2**64 - 1, 0, 1_024),
    (5, 1, 7, 70_000, 1),
    (7, 0, 2**63, 0, 65_536),
]


def entries_of(rows: list[tuple[int, ...]]) -> NDArray[Any]:
    return np.array(rows, dtype=ENTRY_DTYPE)


def chunk_of(rows: list[tuple[int, ...]], span: Span) -> Chunk:
    return Chunk(ORIGIN, span, entries_of(rows))


CHUNK = chunk_of(ROWS, Span(5, 9, 1, 2))


def test_a_chunk_comes_back_as_it_was_written(tmp_path: Path) -> None:
    CHUNK.write(tmp_path)
    found = Chunk.read(tmp_path / "00000005-00000009.rank-1-of-2.ledger")
    assert (found.origin, found.span) == (ORIGIN, CHUNK.span)
    assert np.array_equal(found.entries, CHUNK.entries)


def test_a_chunk_without_pieces_comes_back(tmp_path: Path) -> None:
    chunk = chunk_of([], Span(0, 3, 0, 1))
    chunk.write(tmp_path)
    assert len(Chunk.read(tmp_path / chunk.span.name).entries) == 0


def test_equal_chunks_are_equal_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        CHUNK.write(tmp_path / folder)
    first, second = (next((tmp_path / folder).iterdir()).read_bytes() for folder in ("a", "b"))
    assert first == second


def test_a_piece_takes_12_to_15_bytes(tmp_path: Path) -> None:
    def size(num_pieces: int, start: int) -> int:
        rows = [(0, 0, 2**64 - 1 - i, start, 1_024) for i in range(num_pieces)]
        chunk = chunk_of(rows, Span(0, 1, 0, 1))
        chunk.write(tmp_path)
        return (tmp_path / chunk.span.name).stat().st_size

    # Lengths between 1,000 and 9,999 so that the header is equally long.
    assert size(3_000, 0) - size(2_000, 0) == 1_000 * 12
    assert size(3_000, 70_000) - size(2_000, 70_000) == 1_000 * 15


def test_the_columns_need_no_more_than_numpy_to_read(tmp_path: Path) -> None:
    CHUNK.write(tmp_path)
    _, header, body = (tmp_path / CHUNK.span.name).read_bytes().split(b"\n", 2)
    offset = 0
    for name, dtype, length in json.loads(header)["columns"]:
        column = np.frombuffer(body, dtype, length, offset)
        offset += column.nbytes
        if name in ("source", "key", "start", "tokens"):
            assert column.tolist() == CHUNK.entries[name].tolist()
    assert offset + 32 == len(body)


def test_every_changed_or_missing_byte_is_found(tmp_path: Path) -> None:
    CHUNK.write(tmp_path)
    path = tmp_path / CHUNK.span.name
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        for changed in (bytes(damaged), content[:position]):
            path.write_bytes(changed)
            with pytest.raises(DataError, match=r"rank-1-of-2\.ledger is damaged or cut"):
                Chunk.read(path)


def test_a_renamed_chunk_is_refused(tmp_path: Path) -> None:
    CHUNK.write(tmp_path)
    renamed = tmp_path / "00000005-00000009.rank-0-of-2.ledger"
    (tmp_path / CHUNK.span.name).rename(renamed)
    with pytest.raises(DataError, match=r"was written as 00000005-00000009\.rank-1-of-2\.ledger"):
        Chunk.read(renamed)


def test_a_missing_chunk_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*rank-1-of-2"):
        Chunk.read(tmp_path / CHUNK.span.name)


def test_a_name_that_is_no_chunk_is_refused() -> None:
    with pytest.raises(DataError, match=r"notes\.ledger is no file of a ledger"):
        Span.of("notes.ledger")


@pytest.mark.parametrize(("step", "num_left"), [(5, 0), (6, 2), (7, 2), (8, 3)])
def test_a_chunk_is_cut_before_a_step(step: int, num_left: int) -> None:
    cut = CHUNK.before(step)
    assert cut.span == Span(5, step, 1, 2)
    assert cut.entries.tolist() == ROWS[:num_left]
