"""The bytes of a token shard: the documents that stay, split as decided."""

from pathlib import Path

import numpy as np
import pytest

from biomamba.data.cleaning.decisions import Decision, Verdict
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import Document, DocumentFacts, MeshTerm, document_key, read_facts
from biomamba.data.prepare.staging import StagedShard, StageWriter
from biomamba.data.store import writer as shard_writer_module
from biomamba.data.store.format import INDEX_DTYPE, FileRecord, Totals, read_index
from biomamba.data.store.writer import (
    count_verdicts,
    decision_hash,
    document_lengths,
    write_token_shard,
)
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.files import sha256_of

TOKENS = np.dtype("<u2")


def stage(folder: Path, tokenizer: Tokenizer, texts: list[str]) -> StagedShard:
    documents = [Document(text, str(i), "x") for i, text in enumerate(texts)]
    return stage_documents(folder, tokenizer, documents)


def stage_documents(folder: Path, tokenizer: Tokenizer, documents: list[Document]) -> StagedShard:
    (folder / "staging").mkdir()
    staged = StagedShard(folder / "staging", 0)
    with StageWriter(staged, tokenizer, Cleaning()) as writer:
        list(writer.write(documents))
        writer.commit()
    return staged


def decision(verdicts: list[int], splits: list[int]) -> Decision:
    verdict, split = np.array(verdicts, np.uint8), np.array(splits, np.uint8)
    return Decision(verdict, split, np.zeros(verdict.size, np.uint32))


def keep(num_documents: int, split: int = 0) -> Decision:
    return decision([0] * num_documents, [split] * num_documents)


def test_tokens_are_the_encoded_texts_each_with_its_end(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    staged = stage(tmp_path, byte_tokenizer, ["ab", "\u00e9"])
    write_token_shard(tmp_path, staged, keep(2), TOKENS)
    stored = np.fromfile(tmp_path / "00000.train.bin", dtype="<u2").tolist()
    encode = byte_tokenizer.encode
    assert stored == [*encode("ab"), 0, *encode("\u00e9"), 0]


def test_the_index_holds_end_bytes_and_key(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    write_token_shard(tmp_path, stage(tmp_path, byte_tokenizer, ["ab", "\u00e9"]), keep(2), TOKENS)
    index = read_index(tmp_path / "00000.train.idx")
    assert index.tolist() == [(3, 2, document_key("0")), (6, 2, document_key("1"))]
    assert INDEX_DTYPE.itemsize == 20


def test_the_records_are_size_and_hash_of_the_files(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    staged = stage(tmp_path, byte_tokenizer, ["ab"])
    records, _ = write_token_shard(tmp_path, staged, keep(1), TOKENS)
    assert records == {
        name: FileRecord((tmp_path / name).stat().st_size, sha256_of(tmp_path / name))
        for name in ("00000.train.bin", "00000.train.idx")
    }


def test_a_split_without_documents_has_no_files(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    write_token_shard(tmp_path, stage(tmp_path, byte_tokenizer, ["ab"]), keep(1, split=2), TOKENS)
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {"00000.test.bin", "00000.test.idx"}


def test_a_shard_without_documents_has_no_files(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    written = write_token_shard(tmp_path, stage(tmp_path, byte_tokenizer, []), keep(0), TOKENS)
    assert written == ({}, dict.fromkeys(("train", "val", "test"), Totals()))


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_every_document_that_stays_is_in_its_split_in_raw_order(
    block: int, tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writer_module, "_TOKENS_PER_BLOCK", block)
    rng = np.random.default_rng(0)
    texts = ["x" * int(rng.integers(0, 9)) + str(i) for i in range(50)]
    decided = decision(
        [int(v) for v in rng.choice([0, 0, 1, 3], 50)], [int(s) for s in rng.integers(0, 3, 50)]
    )
    _, totals = write_token_shard(tmp_path, stage(tmp_path, byte_tokenizer, texts), decided, TOKENS)
    for place, split in enumerate(("train", "val", "test")):
        expected = [
            text
            for text, verdict, own in zip(texts, decided.verdict, decided.split, strict=True)
            if verdict == Verdict.KEPT and own == place
        ]
        tokens = np.fromfile(tmp_path / f"00000.{split}.bin", dtype=TOKENS)
        ends = read_index(tmp_path / f"00000.{split}.idx")["end"].astype(int)
        pieces = np.split(tokens, ends[:-1])
        assert [byte_tokenizer.decode(piece[:-1].tolist()) for piece in pieces] == expected
        num_bytes = sum(map(len, expected))
        assert totals[split] == Totals(len(expected), num_bytes + len(expected), num_bytes)


@pytest.mark.parametrize("seed", range(4))
def test_every_document_of_a_split_has_its_facts_in_its_place(
    seed: int, tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    """Document i tells year 1900 + i and descriptor i; of every third nothing is known."""
    rng = np.random.default_rng(seed)
    documents = [
        Document(f"text {i}", str(i), "x", facts=_facts_of(i) if i % 3 else None) for i in range(50)
    ]
    decided = decision(
        [int(v) for v in rng.choice([0, 0, 1, 3], 50)], [int(s) for s in rng.integers(0, 3, 50)]
    )
    staged = stage_documents(tmp_path, byte_tokenizer, documents)
    records, _ = write_token_shard(tmp_path, staged, decided, TOKENS)
    number_of = {document_key(str(i)): i for i in range(50)}
    for split in ("train", "val", "test"):
        path = tmp_path / f"00000.{split}.facts"
        numbers = [
            number_of[key] for key in read_index(tmp_path / f"00000.{split}.idx")["key"].tolist()
        ]
        assert read_facts(path) == [_facts_of(i) if i % 3 else None for i in numbers]
        assert records[path.name] == FileRecord(path.stat().st_size, sha256_of(path))


def _facts_of(number: int) -> DocumentFacts:
    return DocumentFacts(1900 + number, (MeshTerm(f"D{number}", f"Name {number}"),))


def test_a_split_of_which_nothing_is_known_has_no_facts(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    documents = [Document("a", "0", "x", facts=_facts_of(0)), Document("b", "1", "x")]
    staged = stage_documents(tmp_path, byte_tokenizer, documents)
    write_token_shard(tmp_path, staged, decision([0, 0], [0, 2]), TOKENS)
    assert [path.name for path in tmp_path.glob("*.facts")] == ["00000.train.facts"]


def test_what_is_left_out_is_counted_by_reason() -> None:
    decided = decision([0, 1, 1, 2, 4], [0] * 5)
    assert count_verdicts(decided) == {"duplicate id": 2, "duplicate text": 1, "benchmark": 1}
    assert count_verdicts(keep(0)) == {}


def test_the_hash_follows_verdicts_and_splits() -> None:
    first = decision_hash(decision([0, 1], [0, 0]))
    assert first == decision_hash(decision([0, 1], [0, 0]))
    assert len({first, *(decision_hash(d) for d in (keep(2), decision([0, 1], [0, 1])))}) == 3


def test_lengths_are_differences_of_ends() -> None:
    assert document_lengths(np.array([3, 3, 10], dtype="<u8")).tolist() == [3, 0, 7]
    assert document_lengths(np.array([], dtype="<u8")).tolist() == []


def test_nothing_stays_of_a_shard_that_could_not_be_written(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    staged = stage(tmp_path, byte_tokenizer, ["ab"])
    staged.path("bin").unlink()
    with pytest.raises(FileNotFoundError):
        write_token_shard(tmp_path, staged, keep(1), TOKENS)
    assert [path.name for path in tmp_path.iterdir()] == ["staging"]
