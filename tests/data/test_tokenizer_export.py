import json
from pathlib import Path

import pytest

from biomamba.data.tokenizer import EOD_TOKEN, Tokenizer
from biomamba.data.tokenizer_export import SpecialIds, write_generation_config, write_tokenizer

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
        "suppress_tokens": [257, 258, 259],
    }


def test_full_vocabulary_has_nothing_to_suppress(tmp_path: Path) -> None:
    write_generation_config(tmp_path, SpecialIds(), 260, 260)

    assert "suppress_tokens" not in json.loads((tmp_path / "generation_config.json").read_text())
