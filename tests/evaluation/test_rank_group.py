"""Ranks wait for each other."""

import time
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from biomamba.evaluation.runner import rank_group
from biomamba.runtime.ranks import rank


def test_a_process_alone_waits_for_nobody() -> None:
    with rank_group() as wait_for_all:
        wait_for_all()
        assert not distributed.is_initialized()


@pytest.mark.timeout(120)
def test_nobody_goes_on_before_the_last_one_has_come(fork_ranks: Any, tmp_path: Path) -> None:
    def as_rank() -> None:
        with rank_group() as wait_for_all:
            time.sleep(0.3 * rank())
            (tmp_path / f"came_{rank()}").touch()
            wait_for_all()
            assert len(list(tmp_path.glob("came_*"))) == 2

    assert [ended.code for ended in fork_ranks(as_rank, 2)] == [0, 0]
