"""One writer at a time."""

import subprocess
import sys
from pathlib import Path
from threading import Timer

import pytest

from biomamba.runtime.errors import DataError
from biomamba.runtime.files import folder_lock

_HOLDER = """
import sys, time
from pathlib import Path
from threading import Timer
from biomamba.runtime.files import folder_lock
with folder_lock(Path(sys.argv[1]), "holding"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with folder_lock(folder, "writing"):
        message = f"another process is reading {folder}; wait"
        with pytest.raises(DataError, match=message), folder_lock(folder, "reading"):
            pass
    with folder_lock(folder, "writing"):
        pass


def test_a_killed_holder_leaves_the_folder_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="another process"), folder_lock(tmp_path, "writing"):
            pass
        holder.kill()
    with folder_lock(tmp_path, "writing"):
        pass


def test_many_may_share_a_lock_and_none_may_have_it_alone(tmp_path: Path) -> None:
    with folder_lock(tmp_path, "staging", is_shared=True):
        with folder_lock(tmp_path, "staging", is_shared=True):
            pass
        with pytest.raises(DataError, match="is finishing"), folder_lock(tmp_path, "finishing"):
            pass
    with (
        folder_lock(tmp_path, "finishing"),
        pytest.raises(DataError, match="is staging"),
        folder_lock(tmp_path, "staging", is_shared=True),
    ):
        pass


def test_locks_of_other_names_do_not_meet(tmp_path: Path) -> None:
    with folder_lock(tmp_path, "staging", name=".1.lock"), folder_lock(tmp_path, "x"):
        pass


def test_the_patient_wait_for_the_holder_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        timer = Timer(0.3, holder.kill)
        timer.start()
        with folder_lock(tmp_path, "making", is_patient=True):
            assert holder.wait(10) is not None
        timer.join()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(DataError, match=r"cannot write in .*file/set \(Not a directory\)"),
        folder_lock(tmp_path / "file" / "set", "writing"),
    ):
        pass
