"""Records say which steps need not run, and which may not be taken as they are."""

from pathlib import Path
from typing import Any

import pytest

from biomamba.runtime.errors import ConfigError, DataError
from biomamba.workflow.chain import Step
from biomamba.workflow.record import (
    Record,
    descendants,
    difference,
    finished_steps,
    read_record,
    record_path,
)


def step(name: str, *after: str, overrides: tuple[str, ...] = ()) -> Step:
    return Step(
        name=name,
        template=name,
        program="train",
        overrides=overrides,
        after=after,
        minutes=1,
        output=f"runs/{name}",
    )


def record(of: Step, code: int = 0, **keys: Any) -> Record:
    return Record(
        **{
            "step": of.name,
            "command": list(of.command),
            "settings_sha256": "0",
            "code": {},
            "started": "2026-01-01T00:00:00+00:00",
            "seconds": 1.0,
            "exit_code": code,
        }
        | keys
    )


CHAIN = (step("a"), step("b", "a"), step("c", "b"), step("d", "a"))


def records(*names: str) -> dict[str, Record]:
    return {found.name: record(found) for found in CHAIN if found.name in names}


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = record(CHAIN[0], code=75)
    written.write(tmp_path)

    assert read_record(tmp_path, "a") == written
    assert read_record(tmp_path, "b") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": "a"}'])
def test_a_damaged_record_is_named(content: str, tmp_path: Path) -> None:
    path = record_path(tmp_path, "a")
    path.parent.mkdir()
    path.write_text(content)

    with pytest.raises(DataError, match=r"steps/a\.json.*remove it"):
        read_record(tmp_path, "a")


def test_descendants_are_all_that_builds_upon_a_step() -> None:
    assert descendants(CHAIN, ["b"]) == ["b", "c"]
    assert descendants(CHAIN, ["a"]) == ["a", "b", "c", "d"]
    assert descendants(CHAIN, []) == []


def test_steps_that_ended_well_need_not_run() -> None:
    found = records("a", "b") | {"d": record(CHAIN[3], code=75)}

    assert finished_steps(CHAIN, found) == {"a", "b"}


def test_a_changed_command_is_refused_with_what_would_run_again() -> None:
    new = (CHAIN[0], step("b", "a", overrides=("seed=2",)), *CHAIN[2:])

    with pytest.raises(ConfigError, match=r"of b .*seed=2.*rerun=\[b\] runs it again.*: c;"):
        finished_steps(new, records("a", "b", "c"))


def test_a_changed_command_of_an_unfinished_step_is_no_matter() -> None:
    new = (CHAIN[0], step("b", "a", overrides=("seed=2",)))

    assert finished_steps(new, records("a") | {"b": record(CHAIN[1], code=1)}) == {"a"}


def test_a_finished_step_upon_one_that_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"c is finished, but b .*rerun=\[b\]"):
        finished_steps(CHAIN, records("a", "c"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (["x", "a=1"], ["x", "a=2"], "a=1 became a=2"),
        (["x"], ["x", "a=2"], "nothing became a=2"),
        (["x", "y"], ["y", "x"], "another order"),
    ],
)
def test_a_difference_names_the_words(old: list[str], new: list[str], words: str) -> None:
    assert words in difference(old, new)
