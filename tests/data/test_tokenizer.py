"""Tokenizers: round trips, literal special tokens, fingerprints."""

import json
import pickle
import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models

from biomamba.data.tokenizer import EOD_TOKEN, Tokenizer
from biomamba.runtime.errors import DataError

TEXTS = ["renal failure and renal function", "cafe\u0301 \u2265 5 \u00b5g\n\n tab\t", "x" * 40]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer.train_bpe(["renal failure, hepatic failure"] * 5, vocab_size=270)


def random_text(seed: int) -> str:
    generator = random.Random(seed)
    blocks = [(0x20, 0x7E), (0xA0, 0x17F), (0x4E00, 0x4E80), (0x1F600, 0x1F640), (0, 0x1F)]
    spans = generator.choices(blocks, k=60)
    return "".join(chr(generator.randint(*span)) for span in spans)


@pytest.mark.parametrize("seed", range(20))
def test_bytes_round_trip_any_text(seed: int, byte_tokenizer: Tokenizer) -> None:
    text = random_text(seed)
    ids = byte_tokenizer.encode(text)
    assert len(ids) == len(text.encode())
    assert byte_tokenizer.decode(ids) == text


def test_byte_vocabulary_is_the_bytes_and_the_end(byte_tokenizer: Tokenizer) -> None:
    assert (byte_tokenizer.vocab_size, byte_tokenizer.eod_id) == (257, 0)


def test_bpe_round_trips_up_to_nfc(bpe: Tokenizer) -> None:
    assert bpe.decode(bpe.encode(TEXTS[0])) == TEXTS[0]
    assert bpe.decode(bpe.encode("cafe\u0301")) == "caf\u00e9"


def test_bpe_has_the_size_asked_for_and_merges(bpe: Tokenizer) -> None:
    assert bpe.vocab_size == 270
    assert len(bpe.encode("failure")) < len("failure")


def test_bpe_training_is_deterministic(bpe: Tokenizer) -> None:
    again = Tokenizer.train_bpe(iter(["renal failure, hepatic failure"] * 5), vocab_size=270)
    assert again.fingerprint == bpe.fingerprint


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="above 256"):
        Tokenizer.train_bpe(["a"], vocab_size=256)


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_a_literal_special_token_is_plain_text(
    kind: str, byte_tokenizer: Tokenizer, bpe: Tokenizer
) -> None:
    tokenizer = byte_tokenizer if kind == "byte" else bpe
    text = f"before{EOD_TOKEN}after {EOD_TOKEN}"
    ids = tokenizer.encode(text)
    assert tokenizer.eod_id not in ids
    assert tokenizer.decode(ids) == text


def test_a_loaded_tokenizer_still_neutralises_specials(tmp_path: Path, bpe: Tokenizer) -> None:
    bpe.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(str(tmp_path / "tokenizer.json"))
    assert loaded.eod_id not in loaded.encode(EOD_TOKEN)


def test_the_end_of_document_decodes_to_its_name(byte_tokenizer: Tokenizer) -> None:
    assert byte_tokenizer.decode([byte_tokenizer.eod_id]) == EOD_TOKEN


def test_batches_equal_single_texts(bpe: Tokenizer) -> None:
    assert bpe.encode_batch(TEXTS) == [bpe.encode(text) for text in TEXTS]
    assert bpe.encode_batch([]) == []


def test_the_fingerprint_is_that_of_the_content_not_of_its_layout(
    tmp_path: Path, bpe: Tokenizer
) -> None:
    bpe.save(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "b.json").write_text(json.dumps(content, indent=3))
    assert Tokenizer.load(str(tmp_path / "b.json")).fingerprint == bpe.fingerprint
    content["model"]["merges"] = content["model"]["merges"][:-1]
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert Tokenizer.load(str(tmp_path / "c.json")).fingerprint != bpe.fingerprint


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match=r"gone/tokenizer\.json does not exist"):
        Tokenizer.load("gone/tokenizer.json")


def test_an_unreachable_hub_repository_is_named() -> None:
    with pytest.raises(DataError, match="not a repository"):
        Tokenizer.load("not a repository")


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match=r"a\.json is not a tokenizer"):
        Tokenizer.load(str(tmp_path / "a.json"))


def test_a_tokenizer_without_end_of_document_is_refused() -> None:
    with pytest.raises(DataError, match="endoftext"):
        Tokenizer(tokenizers.Tokenizer(models.BPE()))


def test_neox_ids_are_those_of_the_published_models(real_data: Path) -> None:
    neox = Tokenizer.load(str(real_data / "gpt-neox-20b-tokenizer" / "20B_tokenizer.json"))
    assert (neox.vocab_size, neox.eod_id) == (50_277, 0)
    assert neox.encode_batch([" yes", " no", " maybe"]) == [[4754], [642], [5046]]
    assert neox.encode(EOD_TOKEN) == [29, 93, 423, 1171, 1156, 49651]


def test_a_pickled_tokenizer_encodes_alike() -> None:
    tokenizer = Tokenizer.byte_tokenizer()
    copy = pickle.loads(pickle.dumps(tokenizer))
    text = f"a{EOD_TOKEN}b"
    assert copy.encode(text) == tokenizer.encode(text)
    assert copy.fingerprint == tokenizer.fingerprint
