"""Steps run in order, some side by side; failures and signals end all of them properly."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from biomamba.workflow import runner as process
from biomamba.workflow.chain import Step
from biomamba.workflow.record import Record, read_record
from biomamba.workflow.runner import Ending, Runner, environment, stop_request

# The first override of a step is what its program does.
PROGRAM = """#!/usr/bin/env bash
cd "$(dirname "$0")"
echo "start $3" >> events
case $3 in
    fail*) echo "what went wrong"; exit 3 ;;
    stopped*) exit 75 ;;
    killed*) kill -9 $$ ;;
    listen*) trap 'echo "saved $3" >> events; exit 75' TERM; while :; do sleep 0.05; done ;;
    deaf*) trap '' TERM; while :; do sleep 0.05; done ;;
    meet*) n=0; until [ "$(grep -c '^start meet' events)" = 2 ]; do
        sleep 0.05; n=$((n + 1)); [ $n -lt 200 ] || exit 4; done ;;
esac
echo "end $3" >> events
"""
PATIENCE_SECONDS = 20.0


def step(what: str, *after: str) -> Step:
    return Step(
        name=what,
        template=what,
        program="train",
        overrides=(what,),
        after=after,
        minutes=1,
        output=f"runs/{what}",
    )


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Runner]:
    """Return runner(*steps, jobs=1): a runner of steps for which a shell script is in."""
    program = tmp_path / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(program))
    monkeypatch.setattr("biomamba.workflow.runner._POLL_SECONDS", 0.02)

    def _runner(*steps: Step, jobs: int = 1) -> Runner:
        records = {s.name: r for s in steps if (r := read_record(tmp_path, s.name))}
        done = {name for name, record in records.items() if record.is_finished}
        settings = {found.name: "0" for found in steps}
        lines: list[str] = []
        made = Runner(steps, tmp_path, records, done, settings, jobs=jobs, tell=lines.append)
        made.lines = lines  # type: ignore[attr-defined]
        return made

    return _runner


def run(made: Runner) -> Ending:
    with stop_request() as request:
        return made.run(request)


def events(made: Runner) -> list[str]:
    return (made.folder / "events").read_text().splitlines()


def codes(made: Runner) -> dict[str, int]:
    found = [read_record(made.folder, s.name) for s in made.steps]
    return {record.step: record.exit_code for record in found if record}


def signal_when(line: str, made: Runner, *numbers: signal.Signals) -> threading.Thread:
    """Send signals to this process once a step has started."""

    def wait() -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        path = made.folder / "events"
        while time.monotonic() < end:
            if path.is_file() and line in path.read_text():
                for number in numbers:
                    os.kill(os.getpid(), number)
                    time.sleep(0.3)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_steps_run_in_order_and_leave_records(runner: Callable[..., Runner]) -> None:
    made = runner(step("a"), step("b", "a"))

    assert run(made) == Ending()
    assert events(made) == ["start a", "end a", "start b", "end b"]
    record = read_record(made.folder, "b")
    assert record is not None
    assert record.command == list(made.steps[1].command)
    assert record.exit_code == 0
    assert record.seconds > 0


def test_finished_steps_do_not_run_again(runner: Callable[..., Runner]) -> None:
    steps = (step("a"), step("fail", "a"))
    assert run(runner(*steps)).failed == steps[1]
    made = runner(*steps)
    run(made)

    assert events(made) == ["start a", "end a", "start fail", "start fail"]


def test_a_failed_step_ends_the_chain_with_its_code_and_log(runner: Callable[..., Runner]) -> None:
    made = runner(step("a"), step("fail", "a"), step("c", "fail"))
    ending = run(made)

    assert (ending.failed, ending.exit_code) == (made.steps[1], 3)
    assert ending.log is not None
    assert "what went wrong" in ending.log.read_text()
    assert codes(made) == {"a": 0, "fail": 3}


def test_a_killed_step_has_the_code_of_a_shell(runner: Callable[..., Runner]) -> None:
    made = runner(step("killed"))

    assert run(made).exit_code == 137
    assert codes(made) == {"killed": -9}


def test_a_step_that_was_stopped_by_others_stops_the_chain(runner: Callable[..., Runner]) -> None:
    made = runner(step("stopped"), step("b", "stopped"))

    assert run(made).stopped == "stopped was asked to stop"
    assert codes(made) == {"stopped": 75}


def test_jobs_run_side_by_side(runner: Callable[..., Runner]) -> None:
    """Each of the two waits until the other has started; there is room for a third throughout."""
    made = runner(step("meet_a"), step("meet_b"), step("c", "meet_a", "meet_b"), jobs=3)

    assert run(made) == Ending()
    assert set(events(made)[:2]) == {"start meet_a", "start meet_b"}
    assert events(made)[-2:] == ["start c", "end c"]


def test_one_job_runs_one_step_at_a_time(runner: Callable[..., Runner]) -> None:
    made = runner(step("a"), step("b"))
    run(made)

    assert events(made) == ["start a", "end a", "start b", "end b"]


def test_steps_beside_a_failed_one_save_and_end(runner: Callable[..., Runner]) -> None:
    made = runner(step("listen"), step("a"), step("fail", "a"), jobs=2)
    ending = run(made)

    assert ending.failed == made.steps[2]
    assert "saved listen" in events(made)
    assert codes(made) == {"a": 0, "fail": 3, "listen": 75}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_handed_on_and_waited_for(
    number: signal.Signals, runner: Callable[..., Runner]
) -> None:
    made = runner(step("listen"), step("b", "listen"))
    thread = signal_when("start listen", made, number)
    ending = run(made)
    thread.join()

    assert ending.stopped == number.name
    assert events(made) == ["start listen", "saved listen"]
    assert codes(made) == {"listen": 75}


def test_a_second_signal_kills_what_does_not_end(runner: Callable[..., Runner]) -> None:
    made = runner(step("deaf"))
    thread = signal_when("start deaf", made, signal.SIGTERM, signal.SIGTERM)
    ending = run(made)
    thread.join()

    assert ending.stopped == "SIGTERM"
    assert codes(made) == {"deaf": -9}


def test_seconds_of_all_starts_add_up(runner: Callable[..., Runner]) -> None:
    steps = (step("a"),)
    made = runner(*steps)
    Record(
        step="a",
        command=list(steps[0].command),
        settings_sha256="0",
        code={},
        started="",
        seconds=1000.0,
        exit_code=75,
    ).write(made.folder)
    made = runner(*steps)
    run(made)

    assert made.records["a"].seconds > 1000


def test_every_start_is_told_with_its_place(runner: Callable[..., Runner]) -> None:
    made = runner(step("a"), step("b", "a"))
    run(made)

    lines: list[str] = made.lines  # type: ignore[attr-defined]
    assert lines[0] == "step 1 of 2 a (elapsed 0 s, remaining about 2 min)"
    assert lines[1].startswith("step 1 of 2 a is done in ")
    assert lines[2].startswith("step 2 of 2 b (elapsed ")


def test_jobs_share_the_cores_unless_the_user_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment(1)["OMP_NUM_THREADS"] == "8"
    assert environment(3)["OMP_NUM_THREADS"] == "2"
    assert environment(99)["OMP_NUM_THREADS"] == "1"

    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert environment(2)["OMP_NUM_THREADS"] == "5"
