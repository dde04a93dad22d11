"""Which tokenizer belongs to a checkpoint."""

from pathlib import Path

import pytest

from biomamba.data.tokenizer import Tokenizer
from biomamba.inference.text_generation import find_tokenizer
from biomamba.runtime.errors import CheckpointError, DataError


def test_it_lies_beside_the_weights(tmp_path: Path) -> None:
    tokenizer = Tokenizer.byte_tokenizer()
    tokenizer.save(tmp_path / "tokenizer.json")

    assert find_tokenizer(str(tmp_path), None).fingerprint == tokenizer.fingerprint


def test_one_that_is_named_wins(tmp_path: Path) -> None:
    Tokenizer.byte_tokenizer().save(tmp_path / "tokenizer.json")
    other = Tokenizer.train_bpe(["a text of words"] * 3, 260)
    other.save(tmp_path / "other.json")

    found = find_tokenizer(str(tmp_path), str(tmp_path / "other.json"))
    assert found.fingerprint == other.fingerprint


def test_its_absence_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer\.json is beside the weights"):
        find_tokenizer(str(tmp_path), None)


def test_a_missing_checkpoint_is_told_first(tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, DataError), match="nowhere"):
        find_tokenizer(str(tmp_path / "nowhere"), None)
