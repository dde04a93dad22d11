"""Schedules at the points where they can be computed by hand."""

import math

import pytest

from biomamba.training.optimizer import Constant, WarmupDecay

WSD = WarmupDecay(total_tokens=1_000, warmup_ratio=0.1, decay_ratio=0.25, min_lr_ratio=0.1)


@pytest.mark.parametrize(
    ("tokens", "factor"),
    [
        (0, 0.0),
        (50, 0.5),  # half of the warm-up
        (100, 1.0),
        (750, 1.0),  # the flat part ends
        (875, 0.1 + 0.9 * 0.5),  # half of the cosine
        (1_000, 0.1),
        (5_000, 0.1),
    ],
)
def test_warmup_stable_decay(tokens: int, factor: float) -> None:
    assert WSD.factor(tokens) == pytest.approx(factor, abs=1e-12)


def test_cosine_quarter_of_the_decay() -> None:
    expected = 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    assert WSD.factor(750 + 250 // 4) == pytest.approx(expected, abs=2e-2)
    assert WSD.factor(812) > WSD.factor(813)


def test_linear_shape_falls_evenly() -> None:
    schedule = WarmupDecay(1_000, 0.0, 1.0, 0.0, shape="linear")
    assert [schedule.factor(t) for t in (0, 250, 1_000)] == pytest.approx([1.0, 0.75, 0.0])


def test_constant_after_warmup() -> None:
    schedule = Constant(total_tokens=100, warmup_ratio=0.5)
    assert [schedule.factor(t) for t in (25, 50, 100)] == [0.5, 1.0, 1.0]
    assert Constant(total_tokens=100).factor(0) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_tokens": 0}, "total_tokens must be .* at least 1, or null, found 0"),
        ({"warmup_ratio": 1.5}, "warmup_ratio must be a finite number .*, found 1.5"),
        ({"warmup_ratio": 0.9}, "must not add up to more than 1"),
        ({"shape": "square"}, "cosine or linear, got 'square'"),
    ],
)
def test_bad_schedules_are_refused(changes: dict[str, object], message: str) -> None:
    settings = {"total_tokens": 10, "warmup_ratio": 0.1, "decay_ratio": 0.2, "min_lr_ratio": 0.0}
    with pytest.raises(ValueError, match=message):
        WarmupDecay(**(settings | changes))  # type: ignore[arg-type]


def test_a_schedule_whose_length_is_not_known_yet_gives_no_rate() -> None:
    with pytest.raises(AssertionError, match="not filled in"):
        Constant(total_tokens=None).factor(1)
