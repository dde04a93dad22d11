"""Manifests and the check of stores against them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from biomamba.data.store.format import Manifest, ShardRecord, Totals, verify_store
from biomamba.data.store.writer import StorePolicy
from biomamba.runtime.errors import DataError

KINDS = ["00000.train.bin", "00000.train.idx", "00001.val.bin", "00001.json", "MANIFEST.json"]


@pytest.fixture
def store(write_store: Callable[..., Path]) -> Path:
    texts = [f"document {i}" for i in range(40)]
    return write_store("a", texts, num_shards=2, policy=StorePolicy(300, 300))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_an_intact_store_passes_both_modes(store: Path) -> None:
    assert verify_store(store, "full") == verify_store(store, "size")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_flipped_byte_is_found_and_named(name: str, position: int, store: Path) -> None:
    flip(store / name, position)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        verify_store(store, "full")


@pytest.mark.parametrize("mode", ["full", "size"])
@pytest.mark.parametrize("name", KINDS)
def test_a_cut_byte_is_found_and_named(name: str, mode: str, store: Path) -> None:
    (store / name).write_bytes((store / name).read_bytes()[:-1])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        verify_store(store, mode)


@pytest.mark.parametrize("mode", ["full", "size"])
@pytest.mark.parametrize("name", KINDS)
def test_a_missing_file_is_found_and_named(name: str, mode: str, store: Path) -> None:
    (store / name).unlink()
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        verify_store(store, mode)


def test_every_damaged_file_is_named_at_once(store: Path) -> None:
    flip(store / KINDS[0], 0)
    (store / KINDS[1]).unlink()
    with pytest.raises(DataError, match=rf"{KINDS[0]} does not match.*{KINDS[1]} is missing"):
        verify_store(store, "full")


def test_an_absent_store_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist.*python -m biomamba\.prepare"):
        Manifest.read(tmp_path / "gone")


def test_an_unfinished_store_is_refused(store: Path) -> None:
    (store / "MANIFEST.json").unlink()
    with pytest.raises(DataError, match="is not finished"):
        Manifest.read(store)


def test_another_format_version_is_refused(store: Path) -> None:
    replace(Manifest.read(store), format_version=99).write(store)
    with pytest.raises(DataError, match="format_version 99, this program reads 2"):
        Manifest.read(store)


def test_a_sealed_record_of_another_layout_is_refused(store: Path) -> None:
    with pytest.raises(DataError, match=r"MANIFEST\.json is no shard record"):
        ShardRecord.read(store / "MANIFEST.json")


def test_an_unknown_mode_is_refused(store: Path) -> None:
    with pytest.raises(ValueError, match="'full' or 'size'"):
        verify_store(store, "quick")


def test_totals_add_up() -> None:
    assert Totals(1, 2, 3) + Totals(10, 20, 30) == Totals(11, 22, 33)


def test_the_manifest_totals_are_those_of_the_documents(store: Path) -> None:
    totals = Manifest.read(store).totals.values()
    num_bytes = sum(len(f"document {i}") for i in range(40))
    assert sum(total.documents for total in totals) == 40
    assert sum(total.bytes for total in totals) == num_bytes
    # One token per byte and an EOD per document.
    assert sum(total.tokens for total in totals) == num_bytes + 40


def test_the_manifest_lists_every_file(store: Path) -> None:
    listed = json.loads((store / "MANIFEST.json").read_text())["files"]
    present = {path.name for path in store.iterdir()} - {".lock", "MANIFEST.json", "staging"}
    assert set(listed) == present
