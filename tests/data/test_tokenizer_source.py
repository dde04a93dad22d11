"""Ways to a tokenizer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from biomamba.data.tokenizer import ByteLevel, Pretrained, Tokenizer, TrainedBpe
from biomamba.runtime.errors import ConfigError


def no_texts() -> Iterator[str]:
    pytest.fail("the texts were read")
    yield ""


def test_bytes_need_no_texts(byte_tokenizer: Tokenizer) -> None:
    assert ByteLevel().build(no_texts()).fingerprint == byte_tokenizer.fingerprint


def test_pretrained_loads_the_file(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    byte_tokenizer.save(tmp_path / "a.json")
    loaded = Pretrained(str(tmp_path / "a.json")).build(no_texts())
    assert loaded.fingerprint == byte_tokenizer.fingerprint


def test_pretrained_settings_do_not_depend_on_the_path() -> None:
    assert Pretrained("a.json").settings() == Pretrained("b.json").settings()


def test_bpe_is_trained_on_the_texts() -> None:
    source = TrainedBpe(vocab_size=260)
    assert source.needs_texts
    assert source.build(["aaaa aaaa"]).vocab_size <= 260


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"vocab_size must be .* at least 257, found 256"):
        TrainedBpe(vocab_size=256)
