from typing import Any

import pytest
import torch

from biomamba.data.mixture import TokenBudget
from biomamba.planning.probe import Probe, RandomSteps, StepTimer

BUDGET = TokenBudget(max_tokens=8_192, tokens_per_step=2_048, seq_len=128, micro_batch_size=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be .* at least 1, found 0"),
        ({"warmup_steps": -1}, "warmup_steps must be .* at least 0, found -"),
        ({"micro_batches": 0}, "micro_batches must be .* at least 1, or null, found 0"),
    ],
)
def test_wrong_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Probe(**change)


@pytest.mark.parametrize(("micro_batches", "expected"), [(None, 4), (1, 1)])
def test_steps_have_the_micro_batches_of_the_run(micro_batches: int | None, expected: int) -> None:
    probe = Probe(steps=2, warmup_steps=1, micro_batches=micro_batches)

    steps = list(probe.loader(BUDGET, 50, world_size=2))

    assert len(steps) == 3
    assert {len(step) for step in steps} == {expected}
    assert probe.step_tokens(BUDGET, world_size=2) == expected * 2 * 2 * 128


def test_rows_are_full_of_packed_documents() -> None:
    steps = RandomSteps(1, 8, TokenBudget(2**20, 2**17, 1_024, 16), 50)
    batch = steps[0][0]

    assert batch.input_ids.shape == batch.targets.shape == (16, 1_024)
    assert batch.num_target_tokens == 16 * 1_024
    assert 0 <= int(batch.input_ids.min()) <= int(batch.input_ids.max()) < 50
    assert bool((batch.seq_idx.diff(dim=1) >= 0).all())
    documents = float(batch.seq_idx[:, -1].float().mean())
    assert 2 < documents < 5  # 1,024 / 300 on average
    assert torch.equal(steps[0][0].input_ids, batch.input_ids)
    with pytest.raises(IndexError):
        steps[1]


def test_the_warm_up_is_left_out() -> None:
    timer = StepTimer()
    for _ in range(3):
        timer.on_train_batch_start()
        timer.on_train_batch_end()

    assert timer.measured(Probe(steps=2, warmup_steps=1)) == timer.seconds[1:]
    assert len(timer.seconds) == 3
