"""Files that are whole or absent."""

from pathlib import Path

import numpy as np
import pytest

from biomamba.data.store.format import HashedFile, record_of


def test_the_record_is_that_of_the_file(tmp_path: Path) -> None:
    file = HashedFile(tmp_path / "a.bin")
    file.write(np.arange(5, dtype="<u2"))
    file.write(np.empty(0, dtype="<u8"))
    file.write(np.arange(10, dtype="<u4")[::3])
    record = file.commit()
    assert record == record_of(tmp_path / "a.bin")
    assert record.size_bytes == 5 * 2 + 4 * 4
    assert (tmp_path / "a.bin").read_bytes()[10:14] == bytes(4)


def test_nothing_is_there_before_the_commit_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    file = HashedFile(path)
    file.write(np.zeros(3))
    assert path.read_bytes() == b"old"
    file.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"old"


def test_discarding_after_the_commit_changes_nothing(tmp_path: Path) -> None:
    file = HashedFile(tmp_path / "a.bin")
    file.commit()
    file.discard()
    assert (tmp_path / "a.bin").read_bytes() == b""


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    first, second = HashedFile(tmp_path / "a.bin"), HashedFile(tmp_path / "a.bin")
    first.write(np.full(1000, 1, "u1"))
    second.write(np.full(1000, 2, "u1"))
    first.commit()
    assert set((tmp_path / "a.bin").read_bytes()) == {1}
    second.commit()
    assert set((tmp_path / "a.bin").read_bytes()) == {2}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = HashedFile(tmp_path / "a.bin")
    file._stream = Path("/dev/full").open("wb")  # noqa: SIM115 - closed by discard
    file.write(np.zeros(3))
    with pytest.raises(OSError, match="No space left"):
        file.commit()
    file.discard()
    assert not list(tmp_path.iterdir())


def test_a_file_is_made_at_its_first_write_and_an_empty_one_when_it_is_committed(
    tmp_path: Path,
) -> None:
    written, empty = HashedFile(tmp_path / "a.bin"), HashedFile(tmp_path / "b.bin")
    assert not list(tmp_path.iterdir())
    written.write(np.zeros(1))
    assert len(list(tmp_path.iterdir())) == 1
    written.discard()
    assert empty.commit().size_bytes == 0
    assert [path.name for path in tmp_path.iterdir()] == ["b.bin"]
