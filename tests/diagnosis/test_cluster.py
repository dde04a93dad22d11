from pathlib import Path

import pytest

from biomamba.diagnosis.machine import Finding, State, check_slurm

PROGRAMS = ("sbatch", "srun", "scontrol", "squeue")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder that programs are found in."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path


def install(folder: Path, **scripts: str) -> None:
    for name in PROGRAMS:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{scripts.get(name, 'exit 0')}\n")
        path.chmod(0o755)


def found() -> Finding:
    (finding,) = check_slurm()
    return finding


def test_no_slurm_is_fine(programs: Path) -> None:
    assert found().state == State.OK


def test_half_of_slurm_is_a_warning(programs: Path) -> None:
    install(programs)
    (programs / "scontrol").unlink()

    assert found().state == State.WARNING
    assert found().text == "scontrol cannot be found"


def test_version_and_job_are_told(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(programs, sbatch="echo slurm-wlm 22.05.8")
    monkeypatch.setenv("SLURM_JOB_ID", "17")

    assert found().text == "slurm-wlm 22.05.8, inside job 17; the controller answers"


@pytest.mark.parametrize("name", ["sbatch", "scontrol"])
def test_a_program_that_fails_is_told_with_its_words(programs: Path, name: str) -> None:
    install(programs, **{name: "echo munge: no socket >&2; exit 1"})

    assert found().state == State.WARNING
    assert "munge: no socket" in found().text
