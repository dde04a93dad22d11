"""The job scripts: syntax, and the command lines they hand to srun."""

import os
import re
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


def test_each_task_evaluates_its_model(tmp_path: Path) -> None:
    models = ("runs/a", "runs/b", "runs/c")
    assert submit(tmp_path, "evaluate.sbatch", *models, "--", "seed=2", "name=x y") == [
        "python-of-the-cluster",
        "-m",
        "biomamba.evaluate",
        "checkpoint=runs/c",
        "run_id=7_3",
        "seed=2",
        "name=x y",
    ]


def test_a_task_without_a_model_fails(tmp_path: Path) -> None:
    assert submit(tmp_path, "evaluate.sbatch", "runs/a", "runs/b", code=2) == []


def pipeline(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run pipeline.sh with a false sbatch; return its code and what it submitted."""
    sbatch = folder / "sbatch"
    number = f"number=$(($(wc -l < {folder}/jobs) + 1))"
    sbatch.write_text(f'#!/usr/bin/env bash\n{number}\necho "$*" >> {folder}/jobs\necho $number\n')
    sbatch.chmod(0o755)
    (folder / "jobs").touch()
    script = SCRIPTS[0].with_name("pipeline.sh")
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run([script, *arguments], env=environment, capture_output=True, check=False)
    return done.returncode, (folder / "jobs").read_text().splitlines()


def test_the_pipeline_starts_each_job_after_the_one_before(tmp_path: Path) -> None:
    code, jobs = pipeline(tmp_path, "mix80", "name=big num_workers=4", "+experiment=cpt/x", "")
    assert code == 0
    scripts = [re.sub(r"\S+/slurm/", "", job) for job in jobs]
    after = "--parsable --kill-on-invalid-dep=yes --dependency=afterok"
    assert scripts == [
        "--parsable prepare.sbatch name=big num_workers=4",
        f"{after}:1 train.sbatch +experiment=cpt/x paths.run_dir=runs/pipeline/mix80",
        f"{after}:2 evaluate.sbatch runs/pipeline/mix80/model --",
    ]


@pytest.mark.parametrize("arguments", [(), ("a b", "", "", ""), ("a", "", "")])
def test_a_wrong_pipeline_submits_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert pipeline(tmp_path, *arguments) == (2, [])
