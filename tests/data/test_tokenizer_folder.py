"""The tokenizer of a set."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from biomamba.data.tokenizer import (
    ByteLevel,
    Pretrained,
    Tokenizer,
    TokenizerSource,
    TrainedBpe,
    load_tokenizer,
    obtain_tokenizer,
)
from biomamba.runtime.errors import DataError

FILES = ["tokenizer.json", "tokenizer.record.json"]


def obtain(folder: Path, source: TokenizerSource, *, overwrite: bool = False) -> Tokenizer:
    return obtain_tokenizer(
        folder, source, lambda: iter(["abab abab"]), lambda: {"raw": ["x"]}, overwrite=overwrite
    )


def test_the_saved_tokenizer_is_the_one_that_was_made(tmp_path: Path) -> None:
    made = obtain(tmp_path, TrainedBpe(258))
    assert load_tokenizer(tmp_path).fingerprint == made.fingerprint


def test_a_trained_tokenizer_is_kept_without_reading_texts(tmp_path: Path) -> None:
    made = obtain(tmp_path, TrainedBpe(258))

    def unread() -> Iterator[str]:
        pytest.fail("the texts were read")
        yield ""

    kept = obtain_tokenizer(tmp_path, TrainedBpe(258), unread, dict, overwrite=False)
    assert kept.fingerprint == made.fingerprint


def test_raw_data_is_identified_only_for_a_tokenizer_that_is_trained(tmp_path: Path) -> None:
    def unread() -> dict[str, object]:
        pytest.fail("raw files were hashed")

    obtain_tokenizer(tmp_path, ByteLevel(), lambda: iter(()), unread, overwrite=False)
    obtain(tmp_path / "bpe", TrainedBpe(258))
    obtain_tokenizer(tmp_path / "bpe", TrainedBpe(258), list, unread, overwrite=False)


def test_another_kind_is_refused(tmp_path: Path) -> None:
    obtain(tmp_path, TrainedBpe(258))
    with pytest.raises(DataError, match=r"vocab_size': 258.*vocab_size': 259"):
        obtain(tmp_path, TrainedBpe(259))


def test_overwrite_makes_it_anew(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    obtain(tmp_path, TrainedBpe(258))
    made = obtain(tmp_path, ByteLevel(), overwrite=True)
    assert made.fingerprint == load_tokenizer(tmp_path).fingerprint == byte_tokenizer.fingerprint


def test_another_pretrained_file_is_refused(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    byte_tokenizer.save(first)
    Tokenizer.train_bpe(["abab"], 258).save(second)
    obtain(tmp_path, Pretrained(str(first)))
    with pytest.raises(DataError, match="has a tokenizer made with"):
        obtain(tmp_path, Pretrained(str(second)))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_to_either_file_is_noticed(name: str, damage: str, tmp_path: Path) -> None:
    obtain(tmp_path, ByteLevel())
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(DataError, match=name):
        load_tokenizer(tmp_path)
