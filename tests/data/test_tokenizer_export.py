import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from biomamba.data.tokenizer import (
    EOD_TOKEN,
    SpecialIds,
    Tokenizer,
    write_generation_config,
    write_tokenizer,
)

TEXTS = ["A fever of 38.5 C.", "  two  spaces\nand a line", "na\u00efve \u03b2-blocker", ""]


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_transformers_reads_the_same_tokenizer(tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours = (
        Tokenizer.byte_tokenizer()
        if kind == "byte"
        else Tokenizer.train_bpe(["fever and fatigue, fever"] * 3, 270)
    )
    write_tokenizer(ours, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)

    assert [theirs(text)["input_ids"] for text in TEXTS] == ours.encode_batch(TEXTS)
    for text in TEXTS:
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))
    ids = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert ids == (ours.eod_id,) * 3
    assert theirs(EOD_TOKEN)["input_ids"] == [ours.eod_id]


@pytest.mark.parametrize("text", [EOD_TOKEN, f"before {EOD_TOKEN}after"])
def test_the_literal_end_of_a_document_is_a_token_there_and_text_here(
    tmp_path: Path, text: str
) -> None:
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.train_bpe(["fever and fatigue, fever"] * 3, 270)
    write_tokenizer(ours, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)

    assert ours.eod_id not in ours.encode(text)
    assert theirs(text)["input_ids"].count(ours.eod_id) == 1
    assert theirs(text, split_special_tokens=True)["input_ids"] == ours.encode(text)


def test_ids_are_written_also_where_there_are_none() -> None:
    assert SpecialIds().as_config() == {
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def test_rows_without_text_are_never_chosen(tmp_path: Path) -> None:
    ids = SpecialIds.of(Tokenizer.byte_tokenizer())
    write_generation_config(tmp_path, ids, 257, 260)
    settings = json.loads((tmp_path / "generation_config.json").read_text())

    assert settings == {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "do_sample": False,
        "max_new_tokens": 256,
        "suppress_tokens": [257, 258, 259],
    }


def test_length_is_that_of_our_program(tmp_path: Path, compose: Callable[..., DictConfig]) -> None:
    write_generation_config(tmp_path, SpecialIds(), 260, 260)
    settings = json.loads((tmp_path / "generation_config.json").read_text())

    assert (
        settings["max_new_tokens"] == compose("generate", "checkpoint=x").generation.max_new_tokens
    )


def test_full_vocabulary_has_nothing_to_suppress(tmp_path: Path) -> None:
    write_generation_config(tmp_path, SpecialIds(), 260, 260)

    assert "suppress_tokens" not in json.loads((tmp_path / "generation_config.json").read_text())
