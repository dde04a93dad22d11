"""Prompts that fit: what gives way, what never does, and that as little as possible is lost."""

import random
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.prompt import CUTS, Item, Prompt, PromptTooLongError

BYTES = Tokenizer.byte_tokenizer()
WORDS = [
    "metformin",
    "lowers",
    "glucose",
    "in",
    "patients",
    "with",
    "diabetes",
    "na\u00efve",
    "\u03b2-cells",
]


def text(length: int, seed: int = 0) -> str:
    """Return so many words, some of them with characters of several bytes."""
    words = random.Random(seed)
    return " ".join(words.choice(WORDS) for _ in range(length))


BPE = Tokenizer.train_bpe([text(2_000, 9)], 300)
TOKENIZERS = [pytest.param(BYTES, id="bytes"), pytest.param(BPE, id="bpe")]


def prompt(**changes: Any) -> Prompt:
    options: dict[str, Any] = {
        "name": "p-v1",
        "template": "Answer.\nQ: {question}\nC: {context}\nA:",
        "shrink": {"context": "middle"},
    }
    return Prompt(**(options | changes))


def item(context: str, question: str = "Does it work?") -> Item:
    return Item(id="i1", parts={"question": question, "context": context}, target="yes")


def test_a_prompt_that_fits_is_the_template_with_the_whole_parts() -> None:
    encoded = prompt().encode(item(" some text \n"), BYTES, 1_000)

    assert encoded.text == "Answer.\nQ: Does it work?\nC: some text\nA:"
    assert encoded.ids == BYTES.encode(encoded.text)
    assert encoded.num_cut_tokens == 0


def test_a_prompt_that_just_fits_is_not_cut() -> None:
    length = len(BYTES.encode(prompt().render(item("x" * 50).parts)))

    assert prompt().encode(item("x" * 50), BYTES, length).num_cut_tokens == 0
    assert prompt().encode(item("x" * 50), BYTES, length - 1).num_cut_tokens > 0


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("seed", range(3))
def test_a_cut_prompt_fits_and_keeps_all_but_the_part_that_shrinks(
    tokenizer: Tokenizer, cut: str, seed: int
) -> None:
    asked = prompt(shrink={"context": cut})
    whole = item(text(60, seed))
    needed = len(tokenizer.encode(asked.render({**whole.parts, "context": ""})))
    full = len(tokenizer.encode(asked.render(whole.parts)))
    previous = -1
    for max_tokens in range(needed, full + 2, 7):
        found = asked.encode(whole, tokenizer, max_tokens)
        assert len(found.ids) <= max_tokens
        assert found.ids == tokenizer.encode(found.text)
        assert found.text.startswith("Answer.\nQ: Does it work?\nC: ")
        assert found.text.endswith("\nA:")
        context = found.text.removeprefix("Answer.\nQ: Does it work?\nC: ").removesuffix("\nA:")
        assert (found.num_cut_tokens == 0) == (context == whole.parts["context"])
        # More room never gives less text.
        assert len(found.text) >= previous or context == "N/A"
        previous = len(found.text)


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_kept_comes_from_the_named_side_and_no_character_breaks(cut: str) -> None:
    whole = text(40)
    for max_tokens in range(45, 300, 11):
        found = prompt(shrink={"context": cut}).encode(item(whole), BYTES, max_tokens)
        kept = found.text.split("C: ")[1].removesuffix("\nA:")
        assert "\ufffd" not in found.text
        if kept in ("N/A", whole):
            continue
        if cut == "left":
            assert whole.endswith(kept)
        elif cut == "right":
            assert whole.startswith(kept)
        else:
            head, _, tail = kept.partition(" ... ")
            assert whole.startswith(head)
            assert whole.endswith(tail)
            assert abs(len(head.encode()) - len(tail.encode())) <= 4


@pytest.mark.parametrize("cut", ["left", "right"])
def test_no_longer_text_would_fit(cut: str) -> None:
    """With a token per byte, one byte more is one token more: the search must find the last."""
    whole = "".join(chr(97 + n % 26) for n in range(200))
    asked = prompt(shrink={"context": cut})
    fixed = len(BYTES.encode(asked.render({"question": "Does it work?", "context": "y"}))) - 1
    for room in (1, 2, 3, 64, 100, 199):
        found = asked.encode(item(whole), BYTES, fixed + room)
        assert len(found.ids) == fixed + room
        assert found.num_cut_tokens == 200 - room


@pytest.mark.parametrize("cut", ["left", "right"])
@pytest.mark.parametrize("character", ["\u03b2", "\u6f22", "\U0001f9ec"])
def test_a_character_that_does_not_fit_whole_is_left_out_and_no_other(
    cut: str, character: str
) -> None:
    size = len(character.encode())
    asked = prompt(shrink={"context": cut})
    fixed = len(BYTES.encode(asked.render({"question": "Does it work?", "context": "y"}))) - 1
    for room in range(size, 20 * size):
        found = asked.encode(item(character * 30), BYTES, fixed + room)
        assert found.text.count(character) == room // size
        assert "\ufffd" not in found.text


def test_a_short_text_is_kept_where_the_word_for_none_would_not_fit() -> None:
    asked = prompt(empty="nothing at all", shrink={"context": "right"})
    fixed = len(BYTES.encode(asked.render({"question": "Does it work?", "context": "y"}))) - 1

    assert asked.encode(item("abcdef"), BYTES, fixed + 1).text.endswith("C: a\nA:")


def test_parts_give_way_one_after_the_other_in_their_order() -> None:
    asked = prompt(shrink={"context": "right", "question": "left"})
    whole = item("c" * 50, "q" * 50)
    fixed = len(BYTES.encode(asked.render({"question": "", "context": ""}))) - len("N/A" * 2)
    first = asked.encode(whole, BYTES, fixed + 60)
    assert (first.text.count("q"), first.text.count("c")) == (50, 10)
    second = asked.encode(whole, BYTES, fixed + 20)
    assert (second.text.count("q"), second.text.count("c")) == (20 - len("N/A"), 0)
    assert second.num_cut_tokens == 50 + 50 - 17


def test_a_prompt_that_cannot_fit_is_refused_without_its_text() -> None:
    with pytest.raises(PromptTooLongError, match=r"item i1: prompt p-v1 takes \d+ tokens") as found:
        prompt().encode(item("a secret", "s" * 100), BYTES, 100)
    assert "secret" not in str(found.value)
    assert "sss" not in str(found.value)


@pytest.mark.parametrize("empty", ["", "   ", "\n"])
def test_a_part_without_text_is_told(empty: str) -> None:
    assert "C: N/A\n" in prompt().encode(item(empty), BYTES, 1_000).text
    assert "C: none\n" in prompt(empty="none").encode(item(empty), BYTES, 1_000).text


def test_an_item_without_a_part_is_refused() -> None:
    lacking = Item(id="i2", parts={"question": "Why?"}, target="yes")
    with pytest.raises(DataError, match=r"item i2 has no \['context'\], which prompt p-v1 needs"):
        prompt().encode(lacking, BYTES, 100)


@pytest.mark.parametrize("odd", ["{question}", "{0}", "a } b {", "<|endoftext|>"])
def test_texts_are_taken_as_they_are(odd: str) -> None:
    encoded = prompt().encode(item(odd), BYTES, 1_000)

    assert f"C: {odd}\n" in encoded.text
    assert BYTES.eod_id not in encoded.ids
    assert BYTES.decode(encoded.ids) == encoded.text


def test_the_answer_follows_the_cue() -> None:
    assert prompt().answer("yes") == " yes"
    assert prompt(target="\n{target}.").answer("no") == "\nno."
    assert prompt().answer("{x}") == " {x}"


@pytest.mark.parametrize(
    "changes",
    [
        {"template": "Q: {question}\nC: {context}\nA:"},
        {"target": "\n{target}"},
        {"shrink": {"context": "left"}},
        {"shrink": {"context": "middle", "question": "left"}},
        {"empty": "none"},
    ],
)
def test_whatever_decides_the_ids_is_in_the_fingerprint(changes: dict[str, Any]) -> None:
    assert prompt(**changes).fingerprint != prompt().fingerprint
    assert prompt(name="other").fingerprint == prompt().fingerprint


def test_the_order_of_what_shrinks_is_in_the_fingerprint() -> None:
    both = {"context": "left", "question": "left"}
    turned = dict(reversed(both.items()))

    assert prompt(shrink=both).fingerprint != prompt(shrink=turned).fingerprint


@pytest.mark.parametrize("limit", [40, 90, 10_000])
def test_a_prompt_with_an_open_end_ends_with_the_end_of_its_part(limit: int) -> None:
    note = text(30)
    options = {"template": "{context}", "open_end": True, "shrink": {"context": "left"}}

    encoded = prompt(**options).encode(item(note), BYTES, limit)

    assert len(encoded.ids) <= limit
    assert encoded.text
    assert note.endswith(encoded.text)


@pytest.mark.parametrize(
    "changes", [{"template": "{context} A:"}, {"template": "A:"}, {"shrink": {"context": "middle"}}]
)
def test_an_open_end_is_a_part_that_keeps_its_end(changes: dict[str, Any]) -> None:
    options: dict[str, Any] = {"template": "Q: {question}\n{context}", "shrink": {}}

    with pytest.raises(ConfigError, match="must end with a part, which may lose text at its left"):
        prompt(**(options | {"open_end": True} | changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shrink": {"contxt": "left"}}, r"names \['contxt'\]; its parts: \['question', 'context'"),
        ({"shrink": {"context": "top"}}, "allowed: left, middle, right"),
        ({"template": "Q: {question}{context}"}, "must end with a cue"),
        ({"template": "Q: {question} {context} A: "}, "must end with a cue and no space"),
        ({"template": "Q: {} {context} A:"}, r"fields \[''\] that are no names"),
        ({"template": "Q: {0} {context} A:"}, r"fields \['0'\] that are no names"),
        ({"target": " yes"}, "must hold {target} alone"),
        ({"target": "{target} {label}"}, "must hold {target} alone"),
    ],
)
def test_impossible_prompts_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        prompt(**changes)


def test_a_trained_tokenizer_keeps_long_contexts_within_the_limit(real_data: Path) -> None:
    tokenizer = Tokenizer.load(str(real_data / "gpt-neox-20b-tokenizer" / "20B_tokenizer.json"))
    note = item(text(3_000, 5))
    for max_tokens in (64, 511, 1_023):
        found = prompt().encode(note, tokenizer, max_tokens)
        assert max_tokens - 8 <= len(found.ids) <= max_tokens
