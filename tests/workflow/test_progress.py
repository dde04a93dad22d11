"""Estimates: expected minutes until a twin was measured, shared among jobs, never below a path."""

import pytest

from biomamba.workflow.chain import Step
from biomamba.workflow.record import Record
from biomamba.workflow.runner import (
    duration,
    expected_seconds,
    position,
    remaining_seconds,
    rough,
)


def step(name: str, *after: str, minutes: float | None = 1.0) -> Step:
    return Step(
        name=name,
        template=name.split("-")[0],
        program="train",
        overrides=(),
        after=after,
        minutes=minutes,
        output=f"runs/{name}",
    )


def ended(name: str, seconds: float, code: int = 0) -> Record:
    return Record(
        step=name,
        command=[],
        settings_sha256="",
        code={},
        started="",
        seconds=seconds,
        exit_code=code,
    )


def test_measured_twins_replace_what_was_expected() -> None:
    steps = [step("a-1"), step("a-2"), step("a-3"), step("b")]
    records = {"a-1": ended("a-1", 10), "a-2": ended("a-2", 20), "a-3": ended("a-3", 5, code=75)}

    assert expected_seconds(steps[2], steps, records) == 15
    assert expected_seconds(steps[3], steps, records) == 60


def test_what_is_finished_and_what_has_run_takes_no_more_time() -> None:
    steps = [step("a"), step("b", "a", minutes=2), step("c", "b", minutes=3)]
    records = {"a": ended("a", 7)}

    assert remaining_seconds(steps, records, {"b": 50.0}, 1) == 70 + 180
    assert remaining_seconds(steps, records, {"b": 500.0}, 1) == 180


def test_two_jobs_share_what_does_not_depend_on_each_other() -> None:
    wide = [step("a"), step("b"), step("c"), step("d")]
    deep = [step("a"), step("b", "a"), step("c", "b"), step("d")]

    assert remaining_seconds(wide, {}, {}, 2) == 120
    assert remaining_seconds(deep, {}, {}, 2) == 180


def test_a_step_of_unknown_length_leaves_the_rest_unknown_until_it_has_ended() -> None:
    steps = [step("a", minutes=None), step("b", "a")]

    assert rough(remaining_seconds(steps, {}, {}, 1)) == "unknown"
    assert remaining_seconds(steps, {"a": ended("a", 5)}, {}, 1) == 60


def test_position_counts_from_one() -> None:
    steps = [step("a"), step("cpt")]

    assert position(steps[1], steps) == "step 2 of 2 cpt"


@pytest.mark.parametrize(
    ("seconds", "exact", "estimate"),
    [
        (9.6, "10 s", "about 1 min"),
        (59.7, "1 min 00 s", "about 1 min"),
        (3599, "59 min 59 s", "about 60 min"),
        (9000, "2 h 30 min", "about 2 h"),
    ],
)
def test_times_in_words(seconds: float, exact: str, estimate: str) -> None:
    assert duration(seconds) == exact
    assert rough(seconds) == estimate
