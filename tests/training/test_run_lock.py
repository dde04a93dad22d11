"""One run at a time in a folder."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.training.run import run_lock

HOLDER = """
import os, sys, time
from pathlib import Path
from biomamba.training.run import run_lock
with run_lock(Path(sys.argv[1])):
    if os.fork() == 0:  # a worker that outlives the run
        os.close(1)
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_one_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            refusal = pytest.raises(ConfigError, match="another process trains in")
            with refusal, run_lock(tmp_path / "run"):
                pass
            holder.kill()
            holder.wait()
            # The worker lives on and holds nothing.
            os.killpg(holder.pid, 0)
            with run_lock(tmp_path / "run"):
                pass
        finally:
            os.killpg(holder.pid, signal.SIGKILL)


def test_other_ranks_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with run_lock(tmp_path / "run"):
        assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refusal = pytest.raises(ConfigError, match=r"cannot write in .*file/run")
    with refusal, run_lock(tmp_path / "file" / "run"):
        pass


def test_a_folder_that_may_not_be_written_is_named(fork_ranks: Any) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to others
        folder = Path(name) / "run"
        Path(name).chmod(0o555)

        def hold() -> None:
            if os.geteuid() == 0:
                os.setuid(65_534)  # nobody: modes do not hold root back
            with run_lock(folder):
                pass

        (end,) = fork_ranks(hold)
        Path(name).chmod(0o755)
    assert f"ConfigError: cannot write in {folder} (Permission denied)" in end.errors
