"""Samples: what is read, what is learned, and what is left out."""

from collections import Counter
from typing import Any

import pytest

from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.instruct_samples import SampleRules, Samples, check_apart, encode_items
from biomamba.tasks.prompt import Item, Items, Prompt
from biomamba.tasks.task import Answer, ChooseLabel, Task

TOKENIZER = Tokenizer.byte_tokenizer()  # a token is a byte
EOD = TOKENIZER.eod_id
PROMPT = Prompt(name="p", template="Q: {question}\nA:", shrink={"question": "right"})
RULES = SampleRules(max_target_tokens=6)


def item(number: int, target: str = "yes", **fields: Any) -> Item:
    fields = {"parts": {"question": f"number {number}?"}, "label": target} | fields
    return Item(id=f"i{number}", target=target, **fields)


class Given(Task):
    """A task of given items."""

    name, protocol, access, prompt = "given", "none", "open", PROMPT
    files: Any = {}  # type: ignore[assignment]  # noqa: RUF012

    def __init__(self, **splits: list[Item]) -> None:
        self.splits = splits

    @property
    def answer(self) -> Answer:
        return ChooseLabel(["yes", "no"])

    def items(self, split: str) -> Items:
        return Items(self.splits[split], Counter({"row without a question": 2}))

    def held_out(self) -> Items:
        raise AssertionError("the test split was asked for")

    def measures(self, items: Any, predictions: Any) -> Any:
        raise NotImplementedError


def encode(items: list[Item], rules: SampleRules = RULES, seq_len: int = 64) -> Samples:
    return encode_items(Given(train=items), "train", TOKENIZER, rules, seq_len)


def test_a_sample_is_the_prompt_of_evaluation_the_answer_and_the_end() -> None:
    (sample,) = encode([item(1)]).samples
    prompt = PROMPT.encode(item(1), TOKENIZER, 58)
    answer = TOKENIZER.encode(PROMPT.answer("yes"))

    assert sample.tokens == [*prompt.ids, *answer, EOD]
    assert sample.num_context == len(prompt.ids)
    assert TOKENIZER.decode(sample.tokens) == "Q: number 1?\nA: yes<|endoftext|>"
    assert sample.num_bytes == len("yes")


@pytest.mark.parametrize("target", ["no", "maybe"])
def test_the_length_of_an_answer_does_not_change_its_prompt(target: str) -> None:
    """Else the model could learn from the room that is left what the answer is."""
    long = {"question": "x" * 200}
    rules = SampleRules(max_target_tokens=8)
    (sample,) = encode([item(1, target, parts=long)], rules).samples

    assert sample.num_context == 64 - 8
    assert len(sample.tokens) == 56 + len(f" {target}") + 1


def test_a_shortened_prompt_is_counted() -> None:
    found = encode([item(1), item(2, parts={"question": "x" * 100})])

    assert found.num_shortened_prompts == 1


def test_no_sample_exceeds_a_row() -> None:
    items = [item(n, "y" * (n % 4 + 1), parts={"question": "x" * n}) for n in range(90)]

    assert max(len(sample.tokens) for sample in encode(items).samples) == 64


# " yes" and the end take 5 positions.
@pytest.mark.parametrize(("max_target_tokens", "is_kept"), [(5, True), (4, False)])
def test_a_target_fits_with_its_end(max_target_tokens: int, is_kept: bool) -> None:
    rules = SampleRules(max_target_tokens=max_target_tokens, max_reject_ratio=0.5)
    found = encode([item(1), item(2, "no")], rules)

    assert found.labels == ({"no": 1, "yes": 1} if is_kept else {"no": 1})
    assert found.rejects.get("target too long", 0) == int(not is_kept)
    assert found.num_cut_targets == 0


def test_a_cut_target_does_not_learn_to_end_there() -> None:
    rules = SampleRules(max_target_tokens=4, long_targets="cut")
    found = encode([item(1), item(2, "no")], rules)
    cut, whole = found.samples

    assert TOKENIZER.decode(cut.tokens[cut.num_context :]) == " yes"
    assert cut.num_bytes == len(" yes")
    assert TOKENIZER.decode(whole.tokens[whole.num_context :]) == " no<|endoftext|>"
    assert found.num_cut_targets == 1


def test_what_is_left_out_is_counted_by_reason() -> None:
    items = [item(n) for n in range(8)]
    items += [item(8, " "), item(9, "too long a target")]
    found = encode(items, SampleRules(max_target_tokens=6, max_reject_ratio=0.2))

    assert found.rejects == {"row without a question": 2, "no target": 1, "target too long": 1}
    assert found.num_items == 10
    assert len(found.samples) == 8


def test_a_prompt_that_cannot_shrink_enough_is_counted() -> None:
    fixed = Given(train=[item(1), item(2, parts={"question": "x" * 60})])
    fixed.prompt = Prompt(name="p", template="{question} A:", shrink={})  # type: ignore[misc]
    rules = SampleRules(max_target_tokens=6, max_reject_ratio=0.5)

    assert encode_items(fixed, "train", TOKENIZER, rules, 64).rejects["prompt too long"] == 1


@pytest.mark.parametrize("ratio", [0.0, 0.09])
def test_too_many_left_out_are_refused_without_a_text(ratio: float) -> None:
    items = [item(n) for n in range(9)] + [item(9, "a secret that is too long")]
    with pytest.raises(DataError, match=r"given, train: 1 of 10 .*target too long: 1") as caught:
        encode(items, SampleRules(max_target_tokens=6, max_reject_ratio=ratio))
    assert "secret" not in str(caught.value)


def test_a_split_without_samples_is_refused() -> None:
    with pytest.raises(DataError, match="there are none"):
        encode([])


def test_validation_takes_the_same_items_whatever_stands_before_them() -> None:
    rules = SampleRules(max_target_tokens=6, max_val_items=5)
    items = [item(n) for n in range(50)]
    first = encode_items(Given(val=items), "val", TOKENIZER, rules, 64)
    other = encode_items(Given(val=items[::-1]), "val", TOKENIZER, rules, 64)

    assert len(first.samples) == 5
    assert [s.id for s in first.samples] == [s.id for s in other.samples][::-1]


def test_training_takes_all_items() -> None:
    rules = SampleRules(max_target_tokens=6, max_val_items=5)

    assert len(encode([item(n) for n in range(50)], rules).samples) == 50


def test_documents_of_samples_know_what_is_read_and_what_it_weighs() -> None:
    samples = encode([item(1, "yes"), item(2, "no"), item(3, "free", label=None)])
    split = samples.split(EOD, {"yes": 0.5, "no": 2.0})

    assert split.supervision is not None
    assert split.supervision.weights.tolist() == [0.5, 2.0, 1.0]
    assert split.supervision.num_context.tolist() == [s.num_context for s in samples.samples]
    assert [split.tokens(n).tolist() for n in range(3)] == [s.tokens for s in samples.samples]


def test_a_group_in_training_and_validation_is_refused() -> None:
    train = encode([item(1, group="a"), item(2, group="b")])
    with pytest.raises(DataError, match="1 items or groups are in train and in val"):
        check_apart(train, encode([item(3, group="b")]), "given")
    check_apart(train, encode([item(3, group="c")]), "given")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_target_tokens": 1}, "max_target_tokens must be .*, found 1"),
        ({"max_target_tokens": 2, "long_targets": "drop"}, "allowed: reject, cut"),
        ({"max_target_tokens": 2, "max_reject_ratio": 1.1}, "max_reject_ratio must .* 1.1"),
        ({"max_target_tokens": 2, "max_val_items": 0}, "max_val_items must be .*, found 0"),
    ],
)
def test_impossible_rules_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        SampleRules(**options)


def test_rows_without_room_for_a_prompt_are_refused() -> None:
    with pytest.raises(ConfigError, match="leaves no room for a prompt in rows of seq_len=6"):
        encode([item(1)], seq_len=6)
