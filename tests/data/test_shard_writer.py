"""The bytes of a token shard."""

from pathlib import Path

import numpy as np
import pytest

from biomamba.data.document import Document, Reject, SplitRule, document_key
from biomamba.data.key_set import KeySet
from biomamba.data.manifest import INDEX_DTYPE, FileRecord, Totals
from biomamba.data.sealed import sha256_of
from biomamba.data.shard_writer import ShardWriter, read_index, token_dtype
from biomamba.data.tokenizer import EOD_TOKEN, Tokenizer

ALL_TRAIN = SplitRule(0, 0)


def write(
    folder: Path,
    tokenizer: Tokenizer,
    rows: list[Document | Reject],
    rule: SplitRule = ALL_TRAIN,
    keys: KeySet | None = None,
) -> tuple[ShardWriter, dict[str, FileRecord]]:
    with ShardWriter(folder, "00000", tokenizer, rule, keys or KeySet()) as writer:
        assert sum(writer.write(rows)) == len(rows)
        return writer, writer.commit()


def test_tokens_are_the_encoded_texts_each_with_its_end(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    write(tmp_path, byte_tokenizer, [Document("ab", "1", "x"), Document("\u00e9", "2", "x")])
    stored = np.fromfile(tmp_path / "00000.train.bin", dtype="<u2").tolist()
    encode = byte_tokenizer.encode
    assert stored == [*encode("ab"), 0, *encode("\u00e9"), 0]


def test_the_index_holds_end_bytes_and_key(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    write(tmp_path, byte_tokenizer, [Document("ab", "1", "x"), Document("\u00e9", "2", "x")])
    index = read_index(tmp_path / "00000.train.idx")
    assert index.tolist() == [(3, 2, document_key("1")), (6, 2, document_key("2"))]
    assert INDEX_DTYPE.itemsize == 20


def test_the_records_are_size_and_hash_of_the_files(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    _, records = write(tmp_path, byte_tokenizer, [Document("ab", "1", "x")])
    assert records == {
        name: FileRecord((tmp_path / name).stat().st_size, sha256_of(tmp_path / name))
        for name in ("00000.train.bin", "00000.train.idx")
    }


def test_a_split_without_documents_has_no_files(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    write(tmp_path, byte_tokenizer, [Document("ab", "1", "x")])
    assert {path.name for path in tmp_path.iterdir()} == {"00000.train.bin", "00000.train.idx"}


def test_documents_lie_in_the_split_of_their_key(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    rule = SplitRule(300, 300)
    write(tmp_path, byte_tokenizer, [Document("a", str(i), "x") for i in range(60)], rule)
    for split in ("train", "val", "test"):
        keys = read_index(tmp_path / f"00000.{split}.idx")["key"]
        assert {rule.split_of(int(key)) for key in keys} == {split}


def test_a_second_document_of_an_id_is_counted_not_written(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    keys = KeySet()
    keys.add(np.array([document_key("earlier")], dtype=np.uint64))
    rows: list[Document | Reject] = [
        Document(text, name, "x")
        for text, name in (("a", "1"), ("b", "1"), ("c", "earlier"), ("d", "2"))
    ]
    writer, _ = write(tmp_path, byte_tokenizer, rows, keys=keys)
    assert writer.counts.rejects == {"duplicate id": 2}
    assert writer.counts.totals["train"] == Totals(documents=2, tokens=4, bytes=2)


def test_rejects_are_counted_by_reason_and_damage_is_exemplified(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    damaged = [Reject("broken", f"row {i}", is_damaged=True) for i in range(7)]
    writer, _ = write(tmp_path, byte_tokenizer, [Reject("short", None), *damaged])
    assert writer.counts.rejects == {"short": 1, "broken": 7}
    assert (writer.counts.num_rows, writer.counts.num_damaged) == (8, 7)
    assert writer.counts.examples == [f"broken at row {i}" for i in range(5)]


def test_a_literal_end_of_document_does_not_cut_a_document(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    write(tmp_path, byte_tokenizer, [Document(f"a{EOD_TOKEN}b", "1", "x")])
    stored = np.fromfile(tmp_path / "00000.train.bin", dtype="<u2")
    assert np.flatnonzero(stored == byte_tokenizer.eod_id).tolist() == [len(stored) - 1]


def test_nothing_stays_of_a_shard_that_was_not_committed(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    with ShardWriter(tmp_path, "00000", byte_tokenizer, ALL_TRAIN, KeySet()) as writer:
        list(writer.write([Document("ab", "1", "x")]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("vocab_size", "expected"), [(257, "<u2"), (65_536, "<u2"), (65_537, "<u4")]
)
def test_ids_are_stored_in_the_smallest_type(vocab_size: int, expected: str) -> None:
    assert token_dtype(vocab_size) == np.dtype(expected)
