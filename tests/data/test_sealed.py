"""Sealed records."""

from pathlib import Path
from typing import Any

import pytest

from biomamba.runtime import files as sealed
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import read_sealed, sha256_of, write_file, write_sealed

CONTENT = {"name": "caf\u00e9", "values": [1, 2, {"a": None}]}


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a.json", CONTENT)
    assert read_sealed(tmp_path / "a.json") == CONTENT


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, CONTENT)
    intact = path.read_bytes()
    for position in range(len(intact)):
        flipped = bytearray(intact)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(DataError, match=r"a\.json is damaged"):
            read_sealed(path)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\n", lambda b: b""])
def test_a_cut_or_longer_record_is_noticed(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, CONTENT)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match="damaged"):
        read_sealed(path)


@pytest.mark.parametrize("text", ["[1]", "3", '{"sha256": 1}'])
def test_json_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="damaged"):
        read_sealed(tmp_path / "a.json")


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*gone\.json"):
        read_sealed(tmp_path / "gone.json")


def test_sha256_of_is_the_hash_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")


def test_a_full_disk_is_reported_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealed, "write_bytes", full)
    with pytest.raises(DataError, match=r"a\.bin \(No space left on device\)"):
        write_file(tmp_path / "a.bin", b"x")
