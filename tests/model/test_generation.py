from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model.decoder import Decoder
from biomamba.model.generation import (
    Generation,
    GenerationOptions,
    Sampling,
    Vocabulary,
    generate,
    prefill,
)
from biomamba.model.language_model import MambaLM

Draw = Callable[..., Tensor]
GREEDY = GenerationOptions(max_new_tokens=8)
RANDOM = GenerationOptions(
    max_new_tokens=8, sampling=Sampling(temperature=1.0, repetition_penalty=1.1)
)
ENDLESS = Vocabulary(37, None)
LENGTHS = (1, 3, 9, 4)


@pytest.fixture
def prompts(random_ids: Draw) -> list[list[int]]:
    """Prompts of different lengths."""
    ids = random_ids(1, sum(LENGTHS))[0]
    return [part.tolist() for part in torch.split(ids, list(LENGTHS))]


def test_greedy_equals_argmax_of_full_forward(
    tiny_model: MambaLM, prompts: list[list[int]]
) -> None:
    new_ids = generate(tiny_model, prompts, GREEDY, ENDLESS)
    for prompt, found in zip(prompts, new_ids, strict=True):
        ids = list(prompt)
        for _ in range(8):
            ids.append(int(tiny_model(torch.tensor([ids]))[0, -1, :37].argmax()))
        assert found == ids[len(prompt) :]


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_continuation_equals_transformers(
    tiny_model: MambaLM,
    random_ids: Draw,
    transformers_twin: Callable[[MambaLM], Any],
    penalty: float,
) -> None:
    model, ids = tiny_model.float(), random_ids(2, 5)
    theirs = transformers_twin(model).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
        repetition_penalty=penalty, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    options = GenerationOptions(max_new_tokens=12, sampling=Sampling(repetition_penalty=penalty))
    ours = generate(model, ids.tolist(), options, Vocabulary(48, None))

    assert ours == theirs[:, 5:].tolist()


@pytest.mark.parametrize("options", [GREEDY, RANDOM])
def test_prompts_together_equal_one_by_one(
    tiny_model: MambaLM, prompts: list[list[int]], options: GenerationOptions
) -> None:
    seeds = [5, 6, 7, 8]
    together = generate(tiny_model, prompts, options, ENDLESS, seeds)
    alone = [
        generate(tiny_model, [prompt], options, ENDLESS, [seed])[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]

    assert together == alone


def test_rows_go_on_as_alone_when_others_have_ended(
    tiny_model: MambaLM, prompts: list[list[int]]
) -> None:
    seeds = [5, 6, 7, 8]
    eos_id = generate(tiny_model, prompts, RANDOM, ENDLESS, seeds)[0][2]
    vocabulary = Vocabulary(37, eos_id)
    together = generate(tiny_model, prompts, RANDOM, vocabulary, seeds)
    alone = [
        generate(tiny_model, [prompt], RANDOM, vocabulary, [seed])[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]

    assert len(together[0]) <= 2
    assert max(map(len, together[1:])) > 4
    assert together == alone


def test_narrow_generation_is_a_narrow_prompt_and_narrow_steps(
    tiny_model: MambaLM, prompts: list[list[int]]
) -> None:
    model = tiny_model.float()
    options = GenerationOptions(max_new_tokens=8, precision="bfloat16")
    for row, found in enumerate(generate(model, prompts, options, ENDLESS)):
        decoder = Decoder(model, torch.bfloat16)
        begun = Generation(decoder, [prompts[row]], options, ENDLESS, [row])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            hidden, states = model.hidden(torch.tensor([prompts[row]]))
            logits = model.logits(hidden)[:, -1]
        assert torch.equal(begun._logits, logits)
        assert logits.dtype == torch.bfloat16
        decoder.load(states)
        expected = []
        for _ in range(8):
            expected.append(int(logits[0, :37].argmax()))
            logits = decoder.step(torch.tensor(expected[-1:]))
        assert found == expected


def test_seed_decides_the_sample(tiny_model: MambaLM, prompts: list[list[int]]) -> None:
    def run(*seeds: int) -> list[list[int]]:
        return generate(tiny_model, prompts[:2], RANDOM, ENDLESS, seeds)

    first = run(1, 2)
    assert run(1, 2) == first
    assert run(3, 2)[0] != first[0]
    assert run(3, 2)[1] == first[1]


# The prompts start 8, 6, 0 and 5 positions late, so that segments start at, before and behind.
@pytest.mark.parametrize("segment_tokens", [1, 2, 3, 4, 5, 8, 9, 100])
def test_segments_give_the_logits_and_states_of_the_whole_prompt(
    tiny_model: MambaLM, prompts: list[list[int]], segment_tokens: int
) -> None:
    logits, states = prefill(tiny_model, prompts, segment_tokens)
    for row, prompt in enumerate(prompts):
        hidden, expected = tiny_model.hidden(torch.tensor([prompt]))

        torch.testing.assert_close(logits[row], tiny_model.logits(hidden)[0, -1])
        for state, wanted in zip(states, expected, strict=True):
            torch.testing.assert_close([part[row] for part in state], [p[0] for p in wanted])


def test_no_segment_is_longer_than_asked(
    tiny_model: MambaLM, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, hidden = [], tiny_model.hidden

    def recorded(input_ids: Tensor, *rest: Any) -> Any:
        lengths.append(input_ids.shape[1])
        return hidden(input_ids, *rest)

    monkeypatch.setattr(tiny_model, "hidden", recorded)
    options = GenerationOptions(max_new_tokens=2, prefill_tokens=4)
    generate(tiny_model, prompts, options, ENDLESS)

    assert lengths == [4, 4, 1]


def test_padding_ids_are_never_chosen(tiny_model: MambaLM, random_ids: Draw) -> None:
    with torch.no_grad():  # logits of the padding rows become huge
        tiny_model.head_weight[30:] = 100 * tiny_model.head_weight[:18].sign()
    prompts = random_ids(16, 3, vocab_size=30).tolist()
    free = generate(tiny_model, prompts, GREEDY, Vocabulary(48, None))
    bound = generate(tiny_model, prompts, RANDOM, Vocabulary(30, None))

    assert max(map(max, free)) >= 30
    assert max(map(max, bound)) < 30


def test_rows_end_before_the_end_of_document(tiny_model: MambaLM, prompts: list[list[int]]) -> None:
    free = generate(tiny_model, prompts, GREEDY, ENDLESS)
    eos_id = free[0][3]
    stopped = generate(tiny_model, prompts, GREEDY, Vocabulary(37, eos_id))

    assert stopped != free
    assert stopped == [ids[: ids.index(eos_id)] if eos_id in ids else ids for ids in free]


def test_end_of_document_is_not_chosen_too_early(
    tiny_model: MambaLM, prompts: list[list[int]]
) -> None:
    free = generate(tiny_model, prompts, GREEDY, ENDLESS)
    eos_id = free[2][0]
    options = GenerationOptions(max_new_tokens=8, min_new_tokens=3)
    stopped = generate(tiny_model, prompts, options, Vocabulary(37, eos_id))

    assert all(len(ids) >= 3 and eos_id not in ids for ids in stopped)


def generation(model: MambaLM, prompts: list[list[int]], eos_id: int | None = None) -> Generation:
    seeds = range(len(prompts))
    return Generation(Decoder(model), prompts, GREEDY, Vocabulary(37, eos_id), seeds)


def test_every_row_tells_why_it_ended(tiny_model: MambaLM, prompts: list[list[int]]) -> None:
    free = generate(tiny_model, prompts, GREEDY, ENDLESS)
    eos_id = free[0][3]
    found = generation(tiny_model, prompts, eos_id)
    found.advance()
    found.stop(2, "enough")
    rows = [set(found.advance()) for _ in range(7) if not found.is_finished]

    expected = {row: "eos" if eos_id in ids else "length" for row, ids in enumerate(free)}
    assert found.reasons == expected | {2: "enough"}
    assert found.is_finished
    assert 2 not in set().union(*rows)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every step of a decoder."""
    found: list[int] = []
    step = Decoder.step

    def counted(self: Decoder, input_ids: Tensor) -> Tensor:
        found.append(len(input_ids))
        return step(self, input_ids)

    monkeypatch.setattr(Decoder, "step", counted)
    return found


def test_ended_rows_cost_nothing(
    tiny_model: MambaLM, prompts: list[list[int]], batches: list[int]
) -> None:
    found = generation(tiny_model, prompts)
    for row in (3, 0, 1):
        found.advance()
        found.stop(row, "enough")
    found.advance()

    assert batches == [3, 2, 1]


def test_the_last_id_is_not_fed_back(
    tiny_model: MambaLM, prompts: list[list[int]], batches: list[int]
) -> None:
    generate(tiny_model, prompts, GREEDY, ENDLESS)

    assert batches == [4] * 7


def test_generation_builds_no_graph(tiny_model: MambaLM, prompts: list[list[int]]) -> None:
    logits, states = prefill(tiny_model, prompts, 4)

    assert tiny_model.head_weight.requires_grad
    assert not logits.requires_grad
    assert not any(part.requires_grad for state in states for part in state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be .*, found 0"),
        (
            {"max_new_tokens": 3, "min_new_tokens": 4},
            "min_new_tokens must be .* at most 3, found 4",
        ),
        ({"max_new_tokens": 3, "min_new_tokens": -1}, "min_new_tokens must be .*, found -1"),
        ({"max_new_tokens": 3, "precision": "fp8"}, "precision='fp8': must be float32 or bfloat16"),
        ({"max_new_tokens": 3, "prefill_tokens": 0}, "prefill_tokens must be .*, found 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationOptions(**options)


@pytest.mark.parametrize(
    ("prompts", "size", "seeds", "message"),
    [
        ([[1], []], 37, [0, 1], "empty prompt"),
        ([], 37, [], "empty prompt"),
        ([[1]], 49, [0], "vocab_size=49: must be between 1 and .* 48"),
        ([[1, 36]], 36, [0], "prompt with id 36: must be below vocab_size=36"),
        ([[1]], 37, [0, 1], "2 seeds for 1 prompts"),
    ],
)
def test_impossible_request_is_refused(
    tiny_model: MambaLM, prompts: list[list[int]], size: int, seeds: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tiny_model, prompts, GREEDY, Vocabulary(size, None), seeds)
