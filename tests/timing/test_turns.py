"""Tasks that take turns."""

from collections.abc import Callable
from typing import Any

import pytest

from biomamba.timing.measurement import take_turns

MakeTask = Callable[..., Any]


def test_every_repeat_is_timed_without_preparation(
    timed_task: MakeTask, clock: Any, meter: Any
) -> None:
    tasks = {"a": timed_task(2.0), "b": timed_task(0.5)}

    taken = take_turns(tasks, 3, 2, clock, meter)

    assert (taken["a"].seconds, taken["b"].seconds) == ([2.0] * 3, [0.5] * 3)
    assert [task.num_runs for task in tasks.values()] == [5, 5]
    assert [task.num_prepared for task in tasks.values()] == [5, 5]
    assert (taken["a"].held_bytes, taken["a"].growth_bytes) == (7, 100)


def test_tasks_take_turns(clock: Any, meter: Any) -> None:
    order: list[str] = []

    class Noting:
        def __init__(self, name: str) -> None:
            self.name = name

        def prepare(self) -> None: ...

        def run(self) -> None:
            order.append(self.name)

        def held_bytes(self) -> int:
            return 0

    take_turns({"a": Noting("a"), "b": Noting("b")}, 2, 1, clock, meter)

    assert order == ["a", "b", "a", "b", "a", "b"]


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_one_without_memory_leaves_and_the_other_goes_on(
    fails_at: int, timed_task: MakeTask, clock: Any, meter: Any
) -> None:
    tasks = {"a": timed_task(1.0, fails_at), "b": timed_task(1.0)}

    taken = take_turns(tasks, 3, 1, clock, meter)

    assert taken["a"].failure is not None
    assert "can't allocate memory" in taken["a"].failure
    assert (taken["a"].seconds, taken["b"].seconds) == ((), [1.0] * 3)
    assert tasks["a"].num_runs == fails_at


def test_a_defect_is_no_lack_of_memory(timed_task: MakeTask, clock: Any, meter: Any) -> None:
    task = timed_task(1.0)
    task.run = lambda: [][0]
    with pytest.raises(IndexError):
        take_turns({"a": task}, 1, 1, clock, meter)

    def fail() -> None:
        raise RuntimeError("shapes differ")

    task.run = fail
    with pytest.raises(RuntimeError, match="shapes differ"):
        take_turns({"a": task}, 1, 1, clock, meter)
