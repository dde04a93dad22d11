"""The tokenizer of another model."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from biomamba.evaluation.models.loading import EncoderDecoderTokenizer, ForeignTokenizer, Pretrained

PROMPT, ANSWERS = "Is it safe? Answer:", (" yes", " maybe not")


@cache
def load(folder: Path) -> ForeignTokenizer:
    return ForeignTokenizer(Pretrained.find(str(folder)))


@pytest.mark.parametrize(
    ("kind", "first", "last"),
    [("gpt2", [], []), ("llama", [1], []), ("t5", [], [1]), ("bart", [0], [2])],
)
def test_what_stands_around_a_text_is_found(
    kind: str, first: list[int], last: list[int], save_model: Any
) -> None:
    tokenizer = load(save_model(kind))

    assert (tokenizer.first_ids, tokenizer.last_ids) == (first, last)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_prompt_and_answer_are_encoded_as_one_text(kind: str, save_model: Any) -> None:
    tokenizer = load(save_model(kind))

    request = tokenizer.join(PROMPT, ANSWERS)

    for answer, ids in zip(ANSWERS, request.answers, strict=True):
        joined = [*request.prompt_ids, *ids]
        assert joined == tokenizer.encode_batch([PROMPT + answer])[0]
        assert tokenizer.decode(joined) == PROMPT + answer
    assert request.prompt_ids == tokenizer.encode_batch([PROMPT])[0]


def test_a_mark_of_the_beginning_of_words_is_not_doubled(save_model: Any) -> None:
    tokenizer = load(save_model("llama"))

    alone = tokenizer.encode_batch([" yes"])[0]
    behind = tokenizer.join(PROMPT, [" yes"]).answers[0]

    assert tokenizer.backend.convert_ids_to_tokens(behind) == ["\u2581yes"]
    assert alone != behind  # else this tokenizer shows nothing


def test_a_token_across_the_boundary_belongs_to_the_answer(save_model: Any) -> None:
    tokenizer = load(save_model("gpt2"))
    whole = tokenizer.encode_batch(["Answer: y"])[0]
    assert len(tokenizer.encode_batch([" yes"])[0]) == 1

    request = tokenizer.join("Answer: y", ["es", "ou"])

    assert request.prompt_ids == whole[: len(request.prompt_ids)]
    assert len(request.prompt_ids) < len(whole)
    for answer, ids in zip(("es", "ou"), request.answers, strict=True):
        assert [*request.prompt_ids, *ids] == tokenizer.encode_batch(["Answer: y" + answer])[0]


def test_a_text_never_becomes_a_special_token(save_model: Any) -> None:
    for kind, mark in (("gpt2", "<|endoftext|>"), ("llama", "</s>"), ("bart", "<s>")):
        tokenizer = load(save_model(kind))
        ids = tokenizer.encode_batch([f"yes{mark}no"])[0]
        assert not set(ids) & set(tokenizer.backend.all_special_ids)


def test_an_encoder_decoder_begins_the_answer_afresh(save_model: Any) -> None:
    tokenizer = EncoderDecoderTokenizer(Pretrained.find(str(save_model("bart"))))

    request = tokenizer.join(PROMPT, ANSWERS)

    assert request.prompt_ids == tokenizer.encode_batch([PROMPT])[0]
    assert list(request.answers) == tokenizer.encode_batch(["yes", "maybe not"])


def test_the_fingerprint_tells_tokenizers_apart(save_model: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(save_model("gpt2"), tmp_path / "model")
    first, copy = load(save_model("gpt2")), load(folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("ByteLevel", "ByteLevel", 1) + "\n")

    assert copy.fingerprint == first.fingerprint
    assert ForeignTokenizer(Pretrained.find(str(folder))).fingerprint != first.fingerprint
    assert load(save_model("llama")).fingerprint != first.fingerprint


def test_the_tokenizer_of_biogpt_continues_a_prompt(save_model: Any, tmp_path: Path) -> None:
    pytest.importorskip(
        "sacremoses", reason="BioGPT's tokenizer: pip install 'biomamba[baselines]'"
    )
    folder = shutil.copytree(save_model("biogpt"), tmp_path / "model")
    words = ["yes</w>", "no</w>", "safe</w>", "is</w>", "it</w>", ":</w>", "?</w>", "Answer</w>"]
    letters = [letter + end for letter in "Answeryoafit:?I" for end in ("", "</w>")]
    vocabulary = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *letters, *words])
    ids = {token: number for number, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\ny e 1\nye s</w> 1\nn o</w> 1\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()

    tokenizer = ForeignTokenizer(Pretrained.find(str(folder)))
    request = tokenizer.join("Is it safe? Answer:", [" yes", " no"])

    assert not tokenizer.backend.is_fast
    assert (tokenizer.first_ids, tokenizer.last_ids, tokenizer.eos_id) == ([2], [], 2)
    assert list(request.answers) == [[ids["yes</w>"]], [ids["no</w>"]]]
    assert tokenizer.decode([*request.prompt_ids, *request.answers[0]]) == "Is it safe? Answer: yes"
    assert not {0, 1, 2} & set(tokenizer.encode_batch(["no </s>"])[0])
