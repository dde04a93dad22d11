"""Records and files of staged shards."""

from pathlib import Path

import numpy as np
import pytest

from biomamba.data.cleaning.near_duplicates import NearDuplicates
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import FACTS_KIND, Document, DocumentFacts
from biomamba.data.prepare.staging import (
    KINDS,
    STAGED_DTYPE,
    StagedRecord,
    StagedShard,
    StageWriter,
)
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import write_sealed

KNOWN = DocumentFacts(2003)


@pytest.fixture
def staged(tmp_path: Path, byte_tokenizer: Tokenizer) -> StagedShard:
    shard = StagedShard(tmp_path, 12)
    cleaning = Cleaning(near_duplicates=NearDuplicates(num_perm=16))
    with StageWriter(shard, byte_tokenizer, cleaning) as writer:
        list(writer.write([Document(f"text {i}", str(i), "x", facts=KNOWN) for i in range(9)]))
        record = StagedRecord(
            "raw", "sha256:0", {"a": {"b": 1}}, 9, writer.num_bands, 9, {}, 0, writer.commit()
        )
    shard.write_record(record)
    return shard


def test_the_names_follow_the_number(staged: StagedShard) -> None:
    assert {path.name for path in staged.folder.iterdir()} == {
        f"00012.{kind}" for kind in (*KINDS, FACTS_KIND, "json")
    }
    assert set(staged.paths()) == set(staged.folder.iterdir())
    assert STAGED_DTYPE.itemsize == 36


def test_a_record_comes_back_as_it_was_written(staged: StagedShard) -> None:
    record = StagedRecord.read(staged.record_path)
    assert record.settings == {"a": {"b": 1}}
    staged.write_record(record)
    assert StagedRecord.read(staged.record_path) == record


@pytest.mark.parametrize("kind", [*KINDS, FACTS_KIND])
def test_a_changed_cut_or_missing_file_is_named(kind: str, staged: StagedShard) -> None:
    record = StagedRecord.read(staged.record_path)
    path = staged.path(kind)
    content = path.read_bytes()
    assert not list(staged.problems(record, needs_tokens=True))
    path.write_bytes(content + b"x")
    assert len(list(staged.problems(record, needs_tokens=True))) == 1
    if content:
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        (problem,) = staged.problems(record, needs_tokens=False)
        assert path.name in problem
    path.unlink()
    assert list(staged.problems(record, needs_tokens=True)) == [f"{path.name} is missing"]


def test_only_the_tokens_may_be_gone(staged: StagedShard) -> None:
    record = StagedRecord.read(staged.record_path)
    staged.remove_tokens()
    staged.remove_tokens()
    assert not list(staged.problems(record, needs_tokens=False))
    assert set(staged.files(record, needs_tokens=False)) == {
        "00012.idx",
        "00012.bands",
        "00012.hits",
    }


def test_a_record_of_another_version_is_refused(staged: StagedShard) -> None:
    write_sealed(staged.record_path, {"raw_name": "x", "files": {}})
    with pytest.raises(DataError, match="is no staged record of this version"):
        StagedRecord.read(staged.record_path)


def test_bands_lie_one_after_the_other(staged: StagedShard) -> None:
    record = StagedRecord.read(staged.record_path)
    flat = np.fromfile(staged.path("bands"), "<u8").reshape(record.num_bands, 9)
    for band in range(record.num_bands):
        assert staged.band(band, 9).tolist() == flat[band].tolist()
