"""The arrays of a staged shard."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from biomamba.data.cleaning.near_duplicates import NearDuplicates
from biomamba.data.cleaning.policy import Cleaning, Marks
from biomamba.data.document import FACTS_KIND, Document, DocumentFacts, Reject, document_key
from biomamba.data.prepare import staging as stage_writer_module
from biomamba.data.prepare.staging import KINDS, RowCounts, StagedShard, StageWriter
from biomamba.data.store.format import FileRecord, record_of
from biomamba.data.tokenizer import EOD_TOKEN, Tokenizer

Rows = list[Document | Reject]
TEXTS = [
    "caf\u00e9 au lait",
    "",
    f"a literal {EOD_TOKEN} here",
    "\u4e2d\u6587 \U0001f9ec",
    "plain text " * 9,
]


def write(
    folder: Path, tokenizer: Tokenizer, rows: Rows, cleaning: Cleaning | None = None
) -> tuple[StageWriter, StagedShard, dict[str, FileRecord]]:
    folder.mkdir(exist_ok=True)
    staged = StagedShard(folder, 3)
    with StageWriter(staged, tokenizer, cleaning or Cleaning()) as writer:
        assert sum(writer.write(rows)) == len(rows)
        return writer, staged, writer.commit()


def documents(texts: list[str]) -> Rows:
    return [Document(text, f"id {i}", "x") for i, text in enumerate(texts)]


def test_tokens_are_the_encoded_texts_in_order_each_with_its_end(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    _, staged, _ = write(tmp_path, byte_tokenizer, documents(TEXTS))
    expected = [token for text in TEXTS for token in [*byte_tokenizer.encode(text), 0]]
    assert np.fromfile(staged.path("bin"), "<u2").tolist() == expected


def test_the_index_holds_ends_bytes_and_keys(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    rows = documents(TEXTS)
    rows[1] = Document("of a patient", "note 7", "x", group="patient 1")
    _, staged, _ = write(tmp_path, byte_tokenizer, rows)
    texts = [row.text for row in rows if isinstance(row, Document)]
    index = staged.index()
    lengths = [len(byte_tokenizer.encode(text)) + 1 for text in texts]
    assert index["end"].tolist() == np.cumsum(lengths).tolist()
    assert index["num_bytes"].tolist() == [len(text.encode()) for text in texts]
    assert index["key"].tolist() == [document_key(row.id) for row in rows if row.id]
    assert index["group"][1] == document_key("patient 1")
    assert np.delete(index["group"], 1).tolist() == np.delete(index["key"], 1).tolist()


def test_the_marks_are_those_of_the_cleaning(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    cleaning = Cleaning(near_duplicates=NearDuplicates(num_perm=16))
    rows = [Document(text, text, "x") for text in TEXTS]
    writer, staged, _ = write(tmp_path, byte_tokenizer, list(rows), cleaning)
    marks = cleaning.marks(rows)
    assert writer.num_bands == marks.bands.shape[1] > 0
    assert staged.index()["text"].tolist() == marks.text.tolist()
    for band in range(writer.num_bands):
        assert staged.band(band, len(rows)).tolist() == marks.bands[:, band].tolist()


@pytest.mark.parametrize(
    ("batch", "characters"), [(1, 99), (3, 99), (512, 99), (512, 1), (512, 30)]
)
def test_the_files_do_not_depend_on_the_size_of_the_batches(
    batch: int,
    characters: int,
    tmp_path: Path,
    byte_tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cleaning = Cleaning(near_duplicates=NearDuplicates(num_perm=16))
    dated = Document("dated", "dated", "x", facts=DocumentFacts(2003))
    rows: Rows = [*documents(TEXTS * 3), Reject("short", None), dated, *documents(["more"])]
    _, _, whole = write(tmp_path / "whole", byte_tokenizer, rows, cleaning)
    monkeypatch.setattr(stage_writer_module, "_ROWS_PER_BATCH", batch)
    monkeypatch.setattr(stage_writer_module, "_CHARACTERS_PER_BATCH", characters)
    _, _, records = write(tmp_path / "batches", byte_tokenizer, rows, cleaning)
    assert records == whole


def test_facts_stand_in_the_place_of_their_document(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    dated = Document("dated", "dated", "x", facts=DocumentFacts(2003))
    rows = [*documents(["a"]), Reject("short", None), dated, *documents(["b"])]
    _, staged, records = write(tmp_path, byte_tokenizer, rows)
    assert staged.facts() == [None, DocumentFacts(2003), None]
    path = staged.path(FACTS_KIND)
    assert records[path.name] == record_of(path)


def test_without_facts_none_stay_of_an_earlier_staging(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    write(tmp_path, byte_tokenizer, [Document("a", "a", "x", facts=DocumentFacts(2003))])
    _, staged, records = write(tmp_path, byte_tokenizer, documents(["a"]))
    assert staged.facts() is None
    assert sorted(records) == sorted(staged.path(kind).name for kind in KINDS)


def test_benchmark_hits_point_into_the_shard(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_writer_module, "_ROWS_PER_BATCH", 2)
    cleaning = _LastOfEveryBatch()
    _, staged, _ = write(tmp_path, byte_tokenizer, documents(list("abcde")), cleaning)
    assert staged.hits()["document"].tolist() == [1, 3, 4]


def test_a_batch_has_a_bounded_number_of_characters_or_one_document(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_writer_module, "_CHARACTERS_PER_BATCH", 10)
    cleaning = _Recorded()
    lengths = [4, 6, 1, 11, 10, 9, 2, 8]
    write(tmp_path, byte_tokenizer, documents(["x" * length for length in lengths]), cleaning)

    assert cleaning.batches == [[4, 6], [1], [11], [10], [9], [2, 8]]


def test_an_overlong_document_is_left_out_and_counted(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    rows = documents(["x" * 8, "y" * 9, "z"])
    cleaning = Cleaning(max_document_characters=8)
    writer, _, records = write(tmp_path / "limited", byte_tokenizer, rows, cleaning)
    _, _, without = write(tmp_path / "without", byte_tokenizer, [rows[0], rows[2]])

    assert records == without
    assert writer.counts.rejects == {"longer than 8 characters": 1}
    assert (writer.counts.num_rows, writer.counts.num_damaged) == (3, 0)


class _Recorded(Cleaning):
    """Keeps the lengths of the documents of each batch."""

    @cached_property
    def batches(self) -> list[list[int]]:
        return []

    def marks(self, documents: Sequence[Document]) -> Marks:
        self.batches.append([len(document.text) for document in documents])
        return super().marks(documents)


class _LastOfEveryBatch(Cleaning):
    def marks(self, documents: Sequence[Document]) -> Marks:
        marks = super().marks(documents)
        hits = np.zeros(1, marks.hits.dtype)
        hits["document"] = len(documents) - 1
        return Marks(marks.text, marks.bands, hits)


def test_the_records_are_size_and_hash_of_the_files(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    _, staged, records = write(tmp_path, byte_tokenizer, documents(TEXTS))
    paths = [staged.path(kind) for kind in KINDS]
    assert records == {path.name: record_of(path) for path in paths}


def test_a_shard_without_documents_has_empty_files(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    writer, staged, _ = write(tmp_path, byte_tokenizer, [Reject("short", None)])
    assert (writer.num_documents, writer.num_bands, writer.counts.num_rows) == (0, 0, 1)
    assert {staged.path(kind).stat().st_size for kind in KINDS} == {0}
    assert staged.index().size == staged.hits().size == 0


def test_rejects_are_counted_by_reason_and_damage_is_exemplified() -> None:
    counts = RowCounts()
    damaged = [Reject("broken", f"row {i}", is_damaged=True) for i in range(7)]
    document = Document("text", "1", "x")
    assert counts.add([Reject("short", None), document, *damaged]) == [document]
    assert counts.rejects == {"short": 1, "broken": 7}
    assert (counts.num_rows, counts.num_damaged) == (9, 7)
    assert counts.examples == [f"broken at row {i}" for i in range(5)]


def test_nothing_stays_of_a_shard_that_was_not_committed(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    with StageWriter(StagedShard(tmp_path, 0), byte_tokenizer, Cleaning()) as writer:
        list(writer.write(documents(["ab"])))
    assert list(tmp_path.iterdir()) == []


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    tokenizer = Tokenizer.byte_tokenizer()
    tokenizer.vocab_size = 65_537
    _, staged, _ = write(tmp_path, tokenizer, documents(["ab"]))
    assert staged.path("bin").stat().st_size == 3 * 4
