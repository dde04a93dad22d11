"""The marks of a whole set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomamba.data.cleaning import decisions as decision_tables_module
from biomamba.data.cleaning.decisions import StagedSource, shard_tables
from biomamba.data.cleaning.near_duplicates import NearDuplicates
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import Document, document_key
from biomamba.data.prepare.staging import StagedRecord, StagedShard
from biomamba.data.store.format import Manifest
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError

TEXTS = [["one two three four", "five"], [], ["six seven eight nine ten"] * 2]


@pytest.fixture
def sources(
    tmp_path: Path,
    make_corpus: Callable[..., Any],
    write_corpus: Callable[..., Manifest],
    byte_tokenizer: Tokenizer,
    request: pytest.FixtureRequest,
) -> list[StagedSource]:
    cleaning = Cleaning(exact_duplicates=False, near_duplicates=request.param)
    corpus = make_corpus(TEXTS)
    write_corpus(tmp_path / "a", corpus, byte_tokenizer, StorePolicy(0, 0), cleaning=cleaning)
    shards = [StagedShard(tmp_path / "a" / "staging", number) for number in range(3)]
    return [StagedSource("a", "test", s, StagedRecord.read(s.record_path)) for s in shards]


@pytest.mark.parametrize("sources", [NearDuplicates(num_perm=16)], indirect=True)
def test_the_tables_are_the_marks_of_the_documents(
    tmp_path: Path, sources: list[StagedSource]
) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    tables = shard_tables(sources, tmp_path)
    cleaning = Cleaning(near_duplicates=NearDuplicates(num_perm=16))
    for number, (table, texts) in enumerate(zip(tables, TEXTS, strict=True)):
        documents = [Document(text, f"{number}-{i}", "test") for i, text in enumerate(texts)]
        keys = [document_key(document.id) for document in documents]
        assert table.key.tolist() == table.group.tolist() == keys
        assert table.bands.shape == (len(texts), sources[0].record.num_bands)
        if documents:
            marks = cleaning.marks(documents)
            assert table.text.tolist() == marks.text.tolist()
            assert table.bands.tolist() == marks.bands.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("sources", [NearDuplicates(num_perm=16)], indirect=True)
def test_the_bands_are_read_from_one_map_band_by_band(
    tmp_path: Path, sources: list[StagedSource]
) -> None:
    tables = shard_tables(sources, tmp_path)
    assert isinstance(tables[0].bands, np.memmap)
    assert tables[0].bands[:, 0].flags.c_contiguous


@pytest.mark.parametrize("sources", [None], indirect=True)
def test_without_near_duplicates_there_are_no_bands(
    tmp_path: Path, sources: list[StagedSource]
) -> None:
    assert [table.bands.shape for table in shard_tables(sources, tmp_path)] == [
        (2, 0),
        (0, 0),
        (2, 0),
    ]


@pytest.mark.parametrize("sources", [NearDuplicates(num_perm=16)], indirect=True)
def test_want_of_room_is_told(
    tmp_path: Path, sources: list[StagedSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decision_tables_module, "TemporaryFile", full)
    with pytest.raises(DataError, match=r"bands.*No space left on device.*make room"):
        shard_tables(sources, tmp_path)
