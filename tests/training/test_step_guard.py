"""Which steps are taken: the verdicts, and that they are those of an uninterrupted run."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from biomamba.training.step_guard import (
    SpikeDetection,
    StepFigures,
    StepGuard,
    StepRecord,
    Verdict,
)

DETECTION = SpikeDetection(window_steps=9, min_steps=5, deviations=4.0, skip=True)


def figures(loss: float, grad_norm: float = 1.0, num_faulty_ranks: int = 0) -> StepFigures:
    return StepFigures(loss, grad_norm, num_faulty_ranks)


@pytest.mark.parametrize(
    "bad",
    [
        figures(math.nan),
        figures(math.inf),
        figures(1.0, -math.inf),
        figures(1.0, math.nan),
        figures(1.0, 1.0, num_faulty_ranks=1),
    ],
)
def test_what_is_not_finite_on_any_rank_is_skipped(bad: StepFigures) -> None:
    guard = StepGuard()
    assert guard.judge(bad) == Verdict("not finite", is_taken=False)
    assert guard.judge(bad).is_taken is False
    assert (guard.skipped_steps, guard.skipped_in_a_row) == (2, 2)
    assert guard.judge(figures(1.0)).is_taken
    assert (guard.skipped_steps, guard.skipped_in_a_row) == (2, 0)


def test_a_spike_begins_where_median_and_deviation_say() -> None:
    # Losses 1 to 5: median 3, absolute deviations 2 1 0 1 2 with median 1; 3 + 4 x 1.4826 = 8.93.
    for loss, is_spike in ((8.93, False), (8.94, True)):
        guard = StepGuard(DETECTION)
        for value in (1.0, 2.0, 3.0, 4.0, 5.0):
            assert guard.judge(figures(value)) == Verdict()
        assert (guard.judge(figures(loss)).reason == "spike of the loss") is is_spike
        assert guard.spikes == int(is_spike)


def test_equal_values_have_a_spread_of_a_hundredth() -> None:
    guard = StepGuard(DETECTION)
    for _ in range(5):
        guard.judge(figures(2.0))
    assert guard.judge(figures(2.079)) == Verdict()  # 2 + 4 x 0.02 = 2.08
    assert guard.judge(figures(2.0, 1.041)).reason == "spike of the gradient norm"


def test_nothing_stands_out_before_enough_steps_are_known_or_downwards() -> None:
    guard = StepGuard(DETECTION)
    verdicts = [guard.judge(figures(loss)) for loss in (1.0, 100.0, 1.0, 1.0, 100.0, -100.0)]
    assert verdicts == [Verdict()] * 6


def test_a_lasting_change_stops_being_a_spike() -> None:
    guard = StepGuard(DETECTION)
    verdicts = [guard.judge(figures(1.0)) for _ in range(9)]
    verdicts += [guard.judge(figures(3.0)) for _ in range(9)]
    # Five of the nine in the window are new after the fifth: the median has moved.
    assert [verdict.is_taken for verdict in verdicts] == [True] * 9 + [False] * 5 + [True] * 4


def test_values_that_are_not_finite_stay_out_of_the_window() -> None:
    guard = StepGuard(DETECTION)
    for loss in (1.0, math.nan, 1.0, math.inf, 1.0, 1.0):
        guard.judge(figures(loss))
    assert guard.state_dict()["losses"] == [1.0] * 4


def test_a_spike_is_taken_unless_it_shall_be_skipped() -> None:
    guard = StepGuard(SpikeDetection(window_steps=9, min_steps=5))
    for _ in range(5):
        guard.judge(figures(1.0))
    assert guard.judge(figures(9.0, 9.0)) == Verdict("spike of the loss and the gradient norm")
    assert (guard.spikes, guard.skipped_steps) == (1, 0)


@pytest.mark.parametrize("half", [0, 3, 17, 40])
def test_the_verdicts_after_a_resume_are_those_of_an_uninterrupted_run(half: int) -> None:
    generator = random.Random(half)
    steps = [
        figures(generator.choice([1.0, 1.1, 1.2, 5.0, math.nan]), generator.random())
        for _ in range(60)
    ]
    whole = StepGuard(DETECTION)
    expected = [whole.judge(step) for step in steps]
    first, second = StepGuard(DETECTION), StepGuard(DETECTION)
    found = [first.judge(step) for step in steps[:half]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [second.judge(step) for step in steps[half:]]
    assert found == expected
    assert second.state_dict() == whole.state_dict()


def test_a_shorter_window_keeps_the_newest_steps() -> None:
    guard = StepGuard(DETECTION)
    for loss in range(9):
        guard.judge(figures(float(loss)))
    shorter = StepGuard(SpikeDetection(window_steps=3, min_steps=2))
    shorter.load_state_dict(guard.state_dict())
    assert shorter.state_dict()["losses"] == [6.0, 7.0, 8.0]


def test_records_are_lines_of_plain_json(tmp_path: Path) -> None:
    for step in (4, 7):
        record = StepRecord(step, figures(math.nan), Verdict("not finite", False), math.inf, [])
        path = record.append_to(tmp_path / "new", rank=3)
    assert path.name == "rank_00003.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 7]
    assert (lines[0]["loss"], lines[0]["nll_of_rank"]) == ("nan", "inf")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_steps": 1}, "min_steps must be .* at least 2 and at most 128, found 1"),
        ({"window_steps": 8}, "min_steps must be .* at least 2 and at most 8, found 32"),
        ({"deviations": 0.0}, "deviations must be a finite number above 0, found 0.0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpikeDetection(**settings)
