import shutil
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.cleaning.near_duplicates import NearDuplicates
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.prepare.pipeline import prepare
from biomamba.data.rows import LocalRows
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel
from biomamba.diagnosis.machine import State
from biomamba.diagnosis.storage import check_stores


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the set `small` of one store, not to be changed."""
    folder = tmp_path_factory.mktemp("data")
    text = folder / "a.txt"
    text.write_text("".join(f"text {number}\n" for number in range(20)))
    corpora: dict[str, Any] = {"a": ColumnCorpus(LocalRows([str(text)]), "a", "none", ["text"])}
    cleaning = Cleaning(near_duplicates=NearDuplicates(num_perm=16))
    prepare(folder / "small", corpora, ByteLevel(), StorePolicy(300, 300), cleaning)
    return folder


@pytest.fixture
def data_dir(prepared: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def test_a_whole_set_is_told_with_its_size(data_dir: Path) -> None:
    (found,) = check_stores(data_dir)

    assert (found.topic, found.state) == ("set small", State.OK)
    tokens = sum(path.stat().st_size // 2 for path in data_dir.glob("small/a/*.bin"))
    assert f"a: {tokens:,} tokens, tokenizer of 257 ids" in found.text


def test_no_stores_are_a_warning(tmp_path: Path) -> None:
    (found,) = check_stores(tmp_path / "none")

    assert found.state == State.WARNING
    assert "biomamba.prepare" in found.remedy


@pytest.mark.parametrize("pattern", ["small/tokenizer.json", "small/a/*.bin", "small/a/MAN*.json"])
def test_damage_is_a_problem(data_dir: Path, pattern: str) -> None:
    victim = next(path for path in sorted(data_dir.glob(pattern)) if path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1])

    (found,) = check_stores(data_dir)

    assert found.state == State.PROBLEM
    assert found.remedy


def test_only_some_sets_are_looked_at(data_dir: Path) -> None:
    for number in range(22):
        shutil.copytree(data_dir / "small", data_dir / f"set{number:02d}")

    found = list(check_stores(data_dir))

    assert len(found) == 21
    assert found[-1].text == "3 more sets were not looked at"
