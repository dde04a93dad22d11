"""One writer at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from biomamba.data.folder_lock import folder_lock
from biomamba.runtime.errors import DataError

_HOLDER = """
import sys, time
from pathlib import Path
from biomamba.data.folder_lock import folder_lock
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
