"""Ranks from the launcher's environment."""

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.runtime.ranks import is_rank_zero, local_rank, rank, require_launcher, world_size

TORCHRUN = {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16"}
SRUN = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "0"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*TORCHRUN, *SRUN, "SLURM_JOB_NAME"):
        monkeypatch.delenv(variable, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_process_without_a_launcher_is_alone() -> None:
    assert (rank(), local_rank(), world_size()) == (0, 0, 1)
    assert is_rank_zero()


def test_torchrun_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, TORCHRUN)

    assert (rank(), local_rank(), world_size()) == (9, 1, 16)
    assert not is_rank_zero()


def test_srun_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SRUN)

    assert (rank(), local_rank(), world_size()) == (5, 1, 8)


def test_torchrun_inside_a_slurm_step_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SRUN | TORCHRUN)

    assert (rank(), world_size()) == (9, 16)


def test_batch_script_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, BATCH_SCRIPT)

    assert (rank(), world_size()) == (0, 1)


def test_several_tasks_without_srun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, BATCH_SCRIPT)

    with pytest.raises(ConfigError, match="SLURM_NTASKS is 8"):
        require_launcher()


@pytest.mark.parametrize(
    "variables",
    [{}, SRUN, BATCH_SCRIPT | TORCHRUN, BATCH_SCRIPT | {"SLURM_JOB_NAME": "interactive"}],
)
def test_launched_processes_and_shells_may_start(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)

    require_launcher()
