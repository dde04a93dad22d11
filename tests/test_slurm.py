"""The job scripts: syntax, and the command lines they hand to srun."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parents[1] / "slurm").glob("*.sbatch"))
FAKE_SRUN = '#!/usr/bin/env bash\nprintf "%s\\n" "$@"\nexit "$FAKE_CODE"\n'
JOB = {
    "SLURM_CPUS_PER_TASK": "16",
    "SLURM_JOB_ID": "9",
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_MAX": "12",
    "BIOMAMBA_PYTHON": "python-of-the-cluster",
}


def submit(folder: Path, script: str, *arguments: str, code: int = 0) -> list[str]:
    """Run a job script with a false srun and return the command line srun got."""
    srun = folder / "srun"
    srun.write_text(FAKE_SRUN, encoding="utf-8")
    srun.chmod(0o755)
    (path,) = (path for path in SCRIPTS if path.name == script)
    done = subprocess.run(
        ["bash", str(path), *arguments],
        env=JOB | {"PATH": f"{folder}:{os.environ['PATH']}", "FAKE_CODE": str(code)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_has_no_syntax_error(path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_an_array_stages_one_part_per_task(tmp_path: Path) -> None:
    assert submit(tmp_path, "prepare_array.sbatch", "name=big", "num_workers=4") == [
        "python-of-the-cluster",
        "-m",
        "biomamba.prepare",
        "num_workers=16",
        "run_id=7_3",
        "part=3/12",
        "name=big",
        "num_workers=4",  # the later one counts
    ]


def test_one_job_prepares_with_all_its_cores(tmp_path: Path) -> None:
    assert submit(tmp_path, "prepare.sbatch", "corpus=[a, b]") == [
        "python-of-the-cluster",
        "-m",
        "biomamba.prepare",
        "num_workers=16",
        "corpus=[a, b]",
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_the_job_ends_with_the_code_of_the_program(path: Path, tmp_path: Path) -> None:
    submit(tmp_path, path.name, code=2)
