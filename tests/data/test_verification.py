"""Every deviation of a set of stores is found and named."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomamba.data.cleaning.near_duplicates import NearDuplicates
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.prepare.pipeline import prepare
from biomamba.data.rows import LocalRows
from biomamba.data.store.verify import check_set_files, check_store, set_folders, store_files
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel
from biomamba.runtime.errors import DataError

LOCKS = {".lock", ".tokenizer.lock"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of two stores, not to be changed."""
    folder = tmp_path_factory.mktemp("verify")
    corpora: dict[str, Any] = {}
    for name in ("a", "b"):
        files = []
        for number in range(2):
            path = folder / f"{name}{number}.jsonl"
            rows = [{"text": f"{name} {number} text {i}", "year": 2000 + i} for i in range(20)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            files.append(str(path))
        year = "year" if name == "a" else None
        corpora[name] = ColumnCorpus(LocalRows(files), name, "none", ["text"], year_column=year)
    cleaning = Cleaning(near_duplicates=NearDuplicates(num_perm=16))
    prepare(folder / "set", corpora, ByteLevel(), StorePolicy(300, 300), cleaning)
    return folder / "set"


@pytest.fixture
def stores(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the set that a test may damage."""
    for path in prepared.rglob("*"):
        if path.is_file():
            target = tmp_path / "set" / path.relative_to(prepared)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path / "set"


def problems_of(folder: Path) -> list[str]:
    found = check_set_files(folder)
    for store in set_folders(folder):
        found.extend(check_store(store, lambda size: None).problems)
    return found


def names_of(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in LOCKS:
            yield str(path.relative_to(folder))


def test_an_intact_set_has_no_problems_and_every_byte_is_hashed(prepared: Path) -> None:
    assert problems_of(prepared) == []
    sizes: list[int] = []
    found = check_store(prepared / "a", sizes.append)
    assert found.manifest is not None
    assert found.num_files == len(store_files(prepared / "a"))
    assert found.size_bytes == sum(path.stat().st_size for path in store_files(prepared / "a"))
    sealed = [p for p in store_files(prepared / "a") if p.suffix == ".json"]
    listed = sum(p.stat().st_size for p in sealed if p.parent.name == "a" and p.name[0] == "0")
    not_json = sum(p.stat().st_size for p in store_files(prepared / "a") if p not in sealed)
    assert sum(sizes) == not_json + listed


def test_any_changed_cut_or_missing_file_is_named(prepared: Path, stores: Path) -> None:
    rng = np.random.default_rng(0)
    names = list(names_of(prepared))
    kinds = {".".join(Path(name).name.split(".")[1:]) for name in names}
    assert {
        "train.bin",
        "val.idx",
        "test.bin",
        "test.facts",
        "json",
        "bands",
        "hits",
        "idx",
    } <= kinds
    for name in names:
        path = stores / name
        content = path.read_bytes()
        damaged = [None, content + b"\n"]
        if content:
            place = int(rng.integers(len(content)))
            flipped = bytes([content[place] ^ (1 << int(rng.integers(8)))])
            damaged += [content[:-1], content[:place] + flipped + content[place + 1 :]]
        for bad in damaged:
            path.unlink() if bad is None else path.write_bytes(bad)
            found = problems_of(stores)
            assert any(Path(name).name in problem for problem in found), (name, bad)
            path.write_bytes(content)
    assert problems_of(stores) == []


@pytest.mark.parametrize(
    "name",
    ["a/extra", "a/00002.json", "a/00000.train.bin.bak", "b/staging/.x.tmp", "b/sub/file", "top"],
)
def test_a_file_that_belongs_to_no_store_is_named(name: str, stores: Path) -> None:
    (stores / name).parent.mkdir(exist_ok=True)
    (stores / name).write_text("x")
    assert problems_of(stores) == [f"{stores / name} is unexpected"]


def test_all_problems_are_named_at_once(stores: Path) -> None:
    (stores / "a" / "MANIFEST.json").unlink()
    (stores / "a" / "00000.train.bin").write_bytes(b"")
    (stores / "b" / "00001.json").unlink()
    (stores / "b" / "staging" / "00000.idx").unlink()
    text = "\n".join(problems_of(stores))
    for part in (
        "a is not finished",
        "a/00000.train.bin has 0 bytes",
        "b/00001.json is missing",
        "b/staging/00000.idx is missing",
    ):
        assert part in text
    assert (
        len(problems_of(stores)) == 4 + 2 + 2
    )  # tokens and facts of the staging of that without end


def test_a_store_copied_without_its_staging_is_whole(stores: Path) -> None:
    for path in (stores / "a" / "staging").iterdir():
        path.unlink()
    (stores / "a" / "staging").rmdir()
    assert problems_of(stores) == []


def test_a_set_that_is_not_there_is_told(tmp_path: Path, make_corpus: Callable[..., Any]) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DataError, match=r"holds no token stores.*name="):
            set_folders(folder)
    assert "does not exist" in check_store(tmp_path / "gone", lambda size: None).problems[0]
