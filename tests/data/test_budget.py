"""Token budgets and their refusals."""

from dataclasses import replace

import pytest

from biomamba.data.mixture import TokenBudget
from biomamba.runtime.errors import ConfigError

BUDGET = TokenBudget(max_tokens=8_192, tokens_per_step=1_024, seq_len=64, micro_batch_size=2)


def test_steps_and_rows_follow_from_the_tokens() -> None:
    assert (BUDGET.num_steps, BUDGET.sequences_per_step) == (8, 16)


@pytest.mark.parametrize(("world_size", "expected"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_accumulation_makes_up_for_fewer_ranks(world_size: int, expected: int) -> None:
    assert BUDGET.accumulation(world_size) == expected


def test_ranks_that_do_not_divide_the_step_are_refused_with_all_numbers() -> None:
    with pytest.raises(ConfigError) as caught:
        BUDGET.accumulation(3)
    message = str(caught.value)
    for part in ("1,024", "16 rows", "seq_len=64", "world_size=3", "micro_batch_size=2"):
        assert part in message
    # 12 or 18 rows of 64 positions can be dealt out to 3 ranks in twos.
    assert "768 or 1,152" in message


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seq_len": 100}, "tokens_per_step = 1,024 .* seq_len = 100; .*1,000 or 1,100"),
        ({"max_tokens": 9_000}, "max_tokens = 9,000 .* 1,024; .*8,192 or 9,216"),
        ({"micro_batch_size": 3}, "= 16 is no multiple of micro_batch_size = 3; .*15 or 18"),
        ({"max_tokens": 1_000}, "nearest that work: 1,024$"),
    ],
)
def test_a_division_with_a_rest_is_refused_with_what_works(
    change: dict[str, int], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        replace(BUDGET, **change)


@pytest.mark.parametrize("name", ["max_tokens", "tokens_per_step", "seq_len", "micro_batch_size"])
def test_zero_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be .*, found 0"):
        replace(BUDGET, **{name: 0})
