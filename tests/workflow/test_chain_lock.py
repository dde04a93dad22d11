"""One process at a time holds a chain; a process with the descriptor holds it too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.workflow.runner import chain_lock


def test_a_second_holder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with (
        chain_lock(tmp_path),
        pytest.raises(ConfigError, match="another process runs the chain"),
        chain_lock(tmp_path, patience_seconds=0),
    ):
        pass
    with chain_lock(tmp_path, patience_seconds=0):
        pass


def test_a_process_that_has_the_descriptor_holds_the_folder(tmp_path: Path) -> None:
    with chain_lock(tmp_path) as held:
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(held,)
        )
    with pytest.raises(ConfigError), chain_lock(tmp_path, patience_seconds=0):
        pass
    child.communicate(b"\n")
    with chain_lock(tmp_path, patience_seconds=0):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(ConfigError, match="cannot write"), chain_lock(tmp_path / "x"):
        pass
