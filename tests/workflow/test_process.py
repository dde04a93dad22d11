"""The process of a step: its log, its end, and nothing of it left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from biomamba.workflow import runner as process
from biomamba.workflow.chain import Step
from biomamba.workflow.runner import StepProcess, Surroundings, last_lines

STEP = Step(
    name="a",
    template="a",
    program="train",
    overrides=("x=1",),
    after=(),
    minutes=1,
    output="runs/a",
)
PATIENCE_SECONDS = 20.0


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StepProcess]:
    """Return start(script, *extra): a step for which a shell script is in."""

    def _start(script: str, *extra: str) -> StepProcess:
        program = tmp_path / "program"
        program.write_text(f"#!/usr/bin/env bash\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(process.sys, "executable", str(program))
        return StepProcess(STEP, Surroundings(tmp_path, dict(os.environ)), extra)

    return _start


def wait(running: StepProcess) -> int:
    end = time.monotonic() + PATIENCE_SECONDS
    while (code := running.exit_code()) is None:
        assert time.monotonic() < end, "the process does not end"
        time.sleep(0.02)
    return code


def wait_for(text: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while text not in log.read_text():
        assert time.monotonic() < end, f"{text!r} does not come"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pid: int) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while is_alive(pid):
        assert time.monotonic() < end, "a process is left behind"
        time.sleep(0.02)


def test_a_log_holds_command_and_all_output_and_grows(start: Callable[..., StepProcess]) -> None:
    for code in (3, 0):
        running = start(f'echo "out $*"; echo err >&2; exit {code}', "extra=1")
        assert wait(running) == code

    command = "biomamba.train x=1 paths.run_dir=runs/a extra=1"
    once = [f"$ python -m {command}", f"out -m {command}", "err"]
    assert running.log.read_text().splitlines() == once * 2
    assert last_lines(running.log, 1) == "err"


def test_a_step_that_is_asked_to_stop_may_save(start: Callable[..., StepProcess]) -> None:
    running = start("trap 'exit 75' TERM; echo ready; while :; do sleep 0.05; done")
    wait_for("ready", running.log)
    assert running.exit_code() is None
    running.ask_to_stop()

    assert wait(running) == 75


def test_a_step_that_does_not_listen_is_killed(start: Callable[..., StepProcess]) -> None:
    running = start("trap '' TERM; echo ready; while :; do sleep 0.05; done")
    wait_for("ready", running.log)
    running.ask_to_stop()
    running.kill()

    assert wait(running) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_of_a_step_end_with_it(start: Callable[..., StepProcess]) -> None:
    running = start("sleep 1000 & echo pid $!; exit 0")
    wait(running)
    pid = int(running.log.read_text().split()[-1])

    wait_for_end(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_step_dies_with_the_chain(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/usr/bin/env bash\necho pid $$\nexec sleep 1000\n")
    program.chmod(0o755)
    script = (
        "import os, sys, time; from pathlib import Path\n"
        "from biomamba.workflow.runner import StepProcess, Surroundings\n"
        "from biomamba.workflow.chain import Step\n"
        f"sys.executable = {str(program)!r}\n"
        f"step = {STEP!r}\n"
        f"StepProcess(step, Surroundings(Path({str(tmp_path)!r}), dict(os.environ)))\n"
        "time.sleep(1000)\n"
    )
    chain = subprocess.Popen([sys.executable, "-c", script])
    log = tmp_path / "logs" / "a.log"
    end = time.monotonic() + PATIENCE_SECONDS
    while not log.is_file() or "pid" not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    wait_for("pid ", log)
    pid = int(log.read_text().split()[-1])
    assert is_alive(pid)
    chain.kill()
    chain.wait()

    wait_for_end(pid)
