"""Output that nobody reads ends no program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from biomamba.runtime.output import keep_going_without_reader
keep_going_without_reader()
print("first", flush=True)
Path("ready").touch()
sys.stdin.readline()
for _ in range(1000):
    print("x" * 1000)
    print("y" * 1000, file=sys.stderr)
Path("end").write_text("reached")
print("unflushed at exit")
"""


@pytest.mark.parametrize("closed", [["stdout"], ["stderr"], ["stdout", "stderr"]])
def test_a_program_goes_on_when_its_reader_has_gone(tmp_path: Path, closed: list[str]) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    ) as running:
        streams = {"stdout": running.stdout, "stderr": running.stderr}
        first = streams["stdout"].readline()  # type: ignore[union-attr]
        for name in closed:
            streams.pop(name).close()  # type: ignore[union-attr]
        running.stdin.write("\n")  # type: ignore[union-attr]
        running.stdin.close()  # type: ignore[union-attr]
        rest = {name: stream.read() for name, stream in streams.items()}  # type: ignore[union-attr]
        code = running.wait(60)

    assert (first, code) == ("first\n", 0)
    assert (tmp_path / "end").read_text() == "reached"
    expected = {
        "stdout": f"{'x' * 1000}\n" * 1000 + "unflushed at exit\n",
        "stderr": f"{'y' * 1000}\n" * 1000,
    }
    assert rest == {name: expected[name] for name in rest}


def test_a_program_whose_output_is_closed_from_the_start_runs(tmp_path: Path) -> None:
    command = f'{sys.executable} -c "$PROGRAM" < /dev/null >&- 2>&-'
    environment = os.environ | {"PROGRAM": PROGRAM}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=False)

    assert done.returncode == 0
    assert (tmp_path / "end").read_text() == "reached"


def test_a_full_device_loses_the_output_and_nothing_else(tmp_path: Path) -> None:
    command = f'{sys.executable} -c "$PROGRAM" < /dev/null > /dev/full'
    environment = os.environ | {"PROGRAM": PROGRAM}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, check=False, capture_output=True
    )

    assert done.returncode == 0
    assert (tmp_path / "end").read_text() == "reached"


def test_characters_that_the_encoding_lacks_are_escaped() -> None:
    code = (
        "from biomamba.runtime.output import keep_going_without_reader\n"
        "keep_going_without_reader()\n"
        "print('\\u03b1 \\u2265 3')\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, capture_output=True
    )

    assert (done.returncode, done.stdout) == (0, b"\\u03b1 \\u2265 3\n")


def test_a_pipe_that_does_not_block_loses_nothing() -> None:
    code = (
        "import os, sys\n"
        "from biomamba.runtime.output import keep_going_without_reader\n"
        "os.set_blocking(1, False)\n"
        "keep_going_without_reader()\n"
        "print('x' * 1_000_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.PIPE)

    assert (done.returncode, len(done.stdout)) == (0, 1_000_001)


def test_the_help_of_the_front_door_needs_no_reader() -> None:
    command = f"{sys.executable} -m biomamba --help > /dev/full"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True)

    assert (done.returncode, done.stderr) == (0, b"")


def test_streams_of_a_caller_are_left_alone() -> None:
    code = (
        "import io, sys\n"
        "from biomamba.runtime.output import keep_going_without_reader\n"
        "own = sys.stdout = io.StringIO()\n"
        "keep_going_without_reader()\n"
        "sys.exit(sys.stdout is not own)\n"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
