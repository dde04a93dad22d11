from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from biomamba.model.generation import Sampling, generate, generate_ragged
from biomamba.model.language_model import MambaLM

Draw = Callable[..., Tensor]
GREEDY = Sampling()


def run(model: MambaLM, prompt: Tensor, sampling: Sampling = GREEDY, seed: int = 0) -> Tensor:
    """Eight new ids."""
    generator = torch.Generator().manual_seed(seed)
    return generate(model, prompt, 8, sampling, None, 37, generator)


def draws(sampling: Sampling, probabilities: list[float], count: int = 4_000) -> Tensor:
    """Return the share of each id among many draws."""
    logits = torch.tensor(probabilities).log().expand(count, -1)
    ids = sampling.choose(logits, torch.Generator().manual_seed(0))
    return ids.bincount(minlength=len(probabilities)) / count


def test_greedy_equals_argmax_of_full_forward(tiny_model: MambaLM, random_ids: Draw) -> None:
    ids = prompt = random_ids(2, 5)
    for _ in range(8):
        best = tiny_model(ids)[:, -1, :37].argmax(-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)

    assert torch.equal(run(tiny_model, prompt), ids)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=1.0, top_k=1), Sampling(temperature=1.0, top_p=1e-6)],
)
def test_narrowest_sampling_is_greedy(
    tiny_model: MambaLM, random_ids: Draw, sampling: Sampling
) -> None:
    prompt = random_ids(2, 5)

    assert torch.equal(run(tiny_model, prompt, sampling), run(tiny_model, prompt))


def test_seed_decides_the_sample(tiny_model: MambaLM, random_ids: Draw) -> None:
    prompt, sampling = random_ids(2, 5), Sampling(temperature=1.0)
    first = run(tiny_model, prompt, sampling, seed=1)

    assert torch.equal(run(tiny_model, prompt, sampling, seed=1), first)
    assert not torch.equal(run(tiny_model, prompt, sampling, seed=2), first)


# Standard error of a share among 4,000 draws: below 0.008.
@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(temperature=0.5), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),  # squares
        (Sampling(temperature=1.0, top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(temperature=1.0, top_k=9), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(temperature=1.0, top_p=0.69), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.75), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(temperature=1.0, top_k=3, top_p=0.5), [4 / 7, 3 / 7, 0, 0]),
    ],
)
def test_shares_of_drawn_ids(sampling: Sampling, expected: list[float]) -> None:
    shares = draws(sampling, [0.4, 0.3, 0.2, 0.1])

    assert (shares - torch.tensor(expected)).abs().max() < 0.03
    assert all((share == 0) == (e == 0) for share, e in zip(shares, expected, strict=True))


def test_padding_ids_are_never_chosen(tiny_model: MambaLM, random_ids: Draw) -> None:
    with torch.no_grad():  # logits of the padding rows become huge
        tiny_model.head_weight[30:] = 100 * tiny_model.head_weight[:18].sign()
    prompt = random_ids(16, 3, vocab_size=30)
    free = generate(tiny_model, prompt, 8, GREEDY, None, 48)
    bound = generate(tiny_model, prompt, 8, Sampling(temperature=5.0), None, 30)

    assert free.max() >= 30
    assert bound.max() < 30


def test_finished_rows_are_filled_with_eos(tiny_model: MambaLM, random_ids: Draw) -> None:
    prompt = random_ids(6, 5)
    free = run(tiny_model, prompt)[:, 5:]
    eos_id = int(free[0, 2])
    stopped = generate(tiny_model, prompt, 8, GREEDY, eos_id, 37)[:, 5:]

    assert not (free == eos_id).all(0).any()
    for free_row, row in zip(free.tolist(), stopped.tolist(), strict=True):
        end = free_row.index(eos_id) if eos_id in free_row else len(free_row)
        assert row == (free_row[:end] + [eos_id] * 8)[: len(row)]


def test_generation_ends_with_the_last_row(tiny_model: MambaLM, random_ids: Draw) -> None:
    prompt = random_ids(1, 5)
    free = run(tiny_model, prompt)[0, 5:].tolist()
    stopped = generate(tiny_model, prompt, 8, GREEDY, free[2], 37)[0, 5:].tolist()

    assert stopped == free[: free.index(free[2]) + 1]


def test_ragged_prompts_equal_one_by_one(tiny_model: MambaLM, random_ids: Draw) -> None:
    prompts = [random_ids(1, length)[0].tolist() for length in (1, 3, 9, 4)]
    together = generate_ragged(tiny_model, prompts, 8, GREEDY, None, 37)

    for prompt, new_ids in zip(prompts, together, strict=True):
        alone = run(tiny_model, torch.tensor([prompt]))
        assert new_ids == alone[0, len(prompt) :].tolist()


def test_ragged_continuation_ends_before_eos(tiny_model: MambaLM, random_ids: Draw) -> None:
    prompts = [random_ids(1, length)[0].tolist() for length in (2, 5)]
    free = generate_ragged(tiny_model, prompts, 8, GREEDY, None, 37)
    eos_id = free[0][3]
    stopped = generate_ragged(tiny_model, prompts, 8, GREEDY, eos_id, 37)

    assert stopped[0] == free[0][: free[0].index(eos_id)]


def test_generation_builds_no_graph(tiny_model: MambaLM, random_ids: Draw) -> None:
    assert tiny_model.head_weight.requires_grad
    assert not run(tiny_model, random_ids(1, 2)).requires_grad


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -1.0, "temperature=-1.0: must be 0"),
        ("temperature", float("nan"), "temperature=nan"),
        ("top_k", -1, "top_k=-1: must be 0"),
        ("top_p", 0.0, "top_p=0.0: must be above 0 and at most 1"),
        ("top_p", 1.1, "top_p=1.1"),
    ],
)
def test_sampling_out_of_range_is_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**{field: value})


@pytest.mark.parametrize(
    ("length", "new", "vocab_size", "message"),
    [
        (0, 1, 37, "empty prompt"),
        (1, 0, 37, "max_new_tokens=0: must be at least 1"),
        (1, 1, 49, "vocab_size=49: must be between 1 and .* 48"),
    ],
)
def test_impossible_request_is_refused(
    tiny_model: MambaLM, length: int, new: int, vocab_size: int, message: str
) -> None:
    prompt = torch.zeros(1, length, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        generate(tiny_model, prompt, new, GREEDY, None, vocab_size)
