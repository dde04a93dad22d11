"""Requests to stop: flags, children, loaders' workers, and the handlers of others."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

import biomamba
from biomamba.__main__ import COMMANDS
from biomamba.runtime import signals

ALL = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def _listening() -> Iterator[None]:
    signals.listen()
    yield
    signals.restore()


def test_the_signals_are_those_that_ask_for_a_stop() -> None:
    assert set(signals.SIGNALS) == set(ALL)


@pytest.mark.usefixtures("_listening")
@pytest.mark.parametrize("number", ALL)
def test_a_signal_is_remembered_and_nothing_else_happens(number: signal.Signals) -> None:
    signals.check()
    os.kill(os.getpid(), number)
    assert signals.received() == number
    with pytest.raises(signals.Interrupted, match=f"{number.name} before the first step"):
        signals.check()


@pytest.mark.usefixtures("_listening")
def test_a_second_signal_changes_nothing() -> None:
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert signals.received() == signal.SIGUSR1


def test_the_handlers_that_were_there_come_back_and_the_request_is_forgotten() -> None:
    before = [signal.getsignal(number) for number in ALL]
    signals.listen()
    signals.listen()
    os.kill(os.getpid(), signal.SIGUSR1)
    signals.restore()
    signals.restore()
    assert [signal.getsignal(number) for number in ALL] == before
    assert signals.received() == 0


@pytest.mark.usefixtures("_listening")
def test_preparations_end_at_once() -> None:
    reached = []

    def prepare() -> None:
        with signals.immediate():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("the next line")

    for _ in range(2):  # the request is: a later block does not even start
        with pytest.raises(signals.Interrupted, match="SIGTERM"):
            prepare()
    assert not reached


@pytest.mark.usefixtures("_listening")
def test_a_request_that_was_swallowed_in_preparations_ends_them_afterwards() -> None:
    def prepare() -> None:
        with contextlib.suppress(signals.Interrupted):
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(signals.Interrupted, match="SIGUSR1"), signals.immediate():
        prepare()
    os.kill(os.getpid(), signal.SIGUSR1)  # raises nothing any more


@pytest.mark.usefixtures("_listening")
def test_a_forked_child_neither_dies_nor_asks_to_stop() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"r")
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            time.sleep(0.05)
        os._exit(signals.received())
    os.read(reader, 1)
    for number in ALL:
        os.kill(child, number)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    assert status == 0
    assert signals.received() == 0


def test_it_is_no_error_that_a_program_could_swallow() -> None:
    assert not issubclass(signals.Interrupted, Exception)


def test_importing_it_imports_nothing_heavy_and_registers_nothing() -> None:
    code = (
        "import signal, sys; from biomamba.runtime import signals;"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL;"
        "heavy = {'torch', 'numpy', 'lightning', 'hydra'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("line", "code"), [("", -signal.SIGTERM), ("signals.ignore()", 75)])
def test_a_process_that_ends_keeps_its_exit_code(line: str, code: int) -> None:
    # What is left in a module is deleted when the interpreter has given up its handlers.
    program = (
        "import os, signal, sys\n"
        "from biomamba.runtime import signals\n"
        "class Last:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):\n"
        "        kill(pid, number)\n"
        "last = Last()\n"
        f"signals.listen()\n{line}\nsys.exit(75)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == code


def test_without_a_listener_nothing_is_ignored() -> None:
    before = [signal.getsignal(number) for number in ALL]
    signals.ignore()
    assert [signal.getsignal(number) for number in ALL] == before


class Pids(Dataset[int]):
    """Sixty slow items: the process that made each."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> int:
        time.sleep(0.02)
        return os.getpid()


@pytest.mark.usefixtures("_listening")
def test_a_loader_outlives_a_signal_to_every_process_of_the_job() -> None:
    loader = DataLoader(
        Pids(), batch_size=None, num_workers=2, worker_init_fn=signals.shield_worker
    )
    workers = set()
    for index, pid in enumerate(loader):
        workers.add(int(pid))
        if index == 4:
            # From a process that is not the parent, as slurmstepd is.
            targets = [str(pid) for pid in (*workers, os.getpid())]
            for name in ("-TERM", "-USR1", "-USR2", "-INT", "-HUP"):
                subprocess.run(["kill", name, *targets], check=True)
    assert index == 59
    assert len(workers) == 2
    assert signals.received()


def test_a_worker_ends_at_the_word_of_its_parent(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        signals.shield_worker(0)
        (tmp_path / "ready").touch()
        time.sleep(60)
        os._exit(1)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == 0


def test_a_worker_dies_with_a_parent_that_is_killed() -> None:
    code = (
        "import multiprocessing, os, signal, time\n"
        "from biomamba.runtime.signals import shield_worker\n"
        "def work(out):\n"
        "    shield_worker(0)\n"
        "    os.write(out, b'x')\n"
        "    time.sleep(60)\n"
        "inner, out = os.pipe()\n"
        "multiprocessing.get_context('fork').Process(target=work, args=(out,)).start()\n"
        "os.read(inner, 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The worker holds the output open for as long as it lives.
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL


def test_ctrl_c_and_hangup_have_the_codes_of_a_shell() -> None:
    for number in ALL:
        expected = {signal.SIGINT: 130, signal.SIGHUP: 129}.get(number, 75)
        assert signals.Interrupted("", number=number).exit_code == expected


def test_what_is_ignored_at_the_start_stays_ignored() -> None:
    earlier = {number: signal.signal(number, signal.SIG_IGN) for number in signals.BY_HAND}
    try:
        signals.listen()
        for number in signals.BY_HAND:
            os.kill(os.getpid(), number)
        assert signals.received() == 0
        signals.restore()
        assert {signal.getsignal(number) for number in signals.BY_HAND} == {signal.SIG_IGN}
    finally:
        signals.restore()
        for number, handler in earlier.items():
            signal.signal(number, handler)


def started(code: str, **environment: str) -> subprocess.Popen[str]:
    """Start Python code that writes a line when it is ready, and wait for that line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_the_second_interrupt_ends_a_process_whose_main_thread_runs_no_python() -> None:
    process = started(
        "import ctypes\n"
        "from biomamba.runtime import signals\n"
        "signals.listen()\n"
        "print(flush=True)\n"
        "libc = ctypes.CDLL(None)\n"
        "(lambda sleep: sleep(sleep(sleep(sleep(sleep(60))))))(libc.sleep)\n"
    )
    for pause in (0.1, 1.5, 0.0):  # the second comes too soon to be meant
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines() == ["stopped: second SIGINT: nothing saved, ended at once"]


def test_an_interrupt_during_the_imports_is_one_line() -> None:
    process = started(
        "import time\n"
        "from biomamba.runtime import signals\n"
        "signals.start_program()\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines() == ["stopped: SIGINT"]


RANK = (
    "import os, signal, subprocess, sys\n"
    "code = 'from biomamba.runtime import signals; signals.end_with_launcher(); '\
"
    "'import time; print(flush=True); time.sleep(2); print(1, flush=True)'\n"
    "rank = subprocess.Popen([sys.executable, '-c', code])\n"
    "rank.wait()\n"
)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_rank_of_torchrun_dies_with_it(is_stopped: bool) -> None:
    process = started(RANK, TORCHELASTIC_RUN_ID="none")
    if is_stopped:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGSTOP)
    process.kill()
    # The rank holds the output open for as long as it lives.
    output, _ = process.communicate(timeout=30)
    assert output == ""


def test_a_program_that_a_shell_started_outlives_it() -> None:
    environment = {"TORCHELASTIC_RUN_ID": ""}
    code = f"import os; os.environ.pop('TORCHELASTIC_RUN_ID')\n{RANK}"
    process = started(code, **environment)
    process.kill()
    output, _ = process.communicate(timeout=30)
    assert output == "1\n"


def test_a_rank_whose_launcher_died_before_it_began_ends() -> None:
    code = (
        "import os, sys\n"
        "from biomamba.runtime import signals\n"
        "parent = os.fork()\n"
        "if parent:\n"
        "    os.waitpid(parent, 0)\n"
        "    sys.exit()\n"
        "expected = os.getpid()\n"
        "if os.fork():\n"
        "    os._exit(0)\n"
        "while os.getppid() == expected: pass\n"
        "signals.end_with(expected)\n"
        "print('lives')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_program_minds_signals_before_its_slow_imports(name: str) -> None:
    text = Path(biomamba.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    call = "signals.listen()" if name == "train" else "signals.start_program()"
    imports = re.findall(r"^(?:from|import) .*$", text.partition(call)[0], re.MULTILINE)
    assert call in text
    assert imports == ["from biomamba.runtime import signals"]
