"""The job scripts: syntax, and the command lines they hand to srun."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

SCRIPTS = sorted((Path(__file__).resolve().parents[1] / "slurm").glob("*.sbatch"))
FAKE_SRUN = '#!/usr/bin/env bash\nprintf "%s\\n" "$@"\nexit "$FAKE_CODE"\n'
JOB = {
    "SLURM_CPUS_PER_TASK": "16",
    "SLURM_JOB_ID": "9",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "8",
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
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == code
    return done.stdout.splitlines()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_has_no_syntax_error(path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_tasks_of_arrays_have_run_folders_of_their_own(
    tmp_path: Path, compose: Callable[..., DictConfig]
) -> None:
    # An underscore between digits would vanish: 7_3 and 73.
    words = submit(tmp_path, "train.sbatch")
    (run_id,) = (word for word in words if word.startswith("run_id="))
    assert compose("train", run_id).paths.run_dir == "runs/train/7-3"


def test_an_array_stages_one_part_per_task(tmp_path: Path) -> None:
    assert submit(tmp_path, "prepare_array.sbatch", "name=big", "num_workers=4") == [
        "python-of-the-cluster",
        "-m",
        "biomamba.prepare",
        "num_workers=16",
        "run_id=7-3",
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
    arguments = {"evaluate.sbatch": ["a", "b", "c"], "sweep.sbatch": [__file__]}
    assert submit(tmp_path, path.name, *arguments.get(path.name, []), code=75)


def test_each_task_evaluates_its_model(tmp_path: Path) -> None:
    models = ("runs/a", "runs/b", "runs/c")
    assert submit(tmp_path, "evaluate.sbatch", *models, "--", "seed=2", "name=x y") == [
        "python-of-the-cluster",
        "-m",
        "biomamba.evaluate",
        "checkpoint=runs/c",
        "run_id=7-3",
        "seed=2",
        "name=x y",
    ]


def test_a_task_without_a_model_fails(tmp_path: Path) -> None:
    assert submit(tmp_path, "evaluate.sbatch", "runs/a", "runs/b", code=2) == []


def test_the_job_decides_about_ranks_and_run_folder_unless_told_otherwise(tmp_path: Path) -> None:
    assert submit(tmp_path, "train.sbatch", "run_id=x y", "trainer=gpu_8") == [
        "--kill-on-bad-exit=1",
        "python-of-the-cluster",
        "-m",
        "biomamba.train",
        "run_id=7-3",
        "trainer.num_nodes=2",
        "trainer.devices=8",
        "run_id=x y",  # the later one counts
        "trainer=gpu_8",
    ]


def test_each_task_of_a_sweep_trains_one_line(tmp_path: Path) -> None:
    grid = tmp_path / "lr.grid.txt"
    grid.write_text("seed=1\nseed=2\nseed=3 optimizer.lr=1e-4", encoding="utf-8")
    assert submit(tmp_path, "sweep.sbatch", str(grid), "name=x y", "seed=7")[3:] == [
        "biomamba.train",
        "trainer.num_nodes=2",
        "trainer.devices=8",
        "run_id=lr.grid-3",
        "name=x y",
        "seed=7",
        "seed=3",
        "optimizer.lr=1e-4",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "must be the file with one run per line"),
        ("seed=1\nseed=2\n", "task 3 of the array has no line in .* submit with --array=1-2"),
        ("seed=1\nseed=2\n\nseed=4\n", "line 3 of .* is empty"),
    ],
)
def test_a_sweep_without_a_line_for_the_task_fails(
    tmp_path: Path, lines: str | None, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "lr.txt"
    if lines is not None:
        grid.write_text(lines, encoding="utf-8")
    assert submit(tmp_path, "sweep.sbatch", str(grid), code=2) == []
    assert re.search(message, capfd.readouterr().err)


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
    train = "+experiment=cpt/x --nodes=2 trainer=gpu_8 --gres=gpu:a100:8"
    code, jobs = pipeline(tmp_path, "mix80", "name=big filter=*", train, "seed=3")
    assert code == 0
    scripts = [re.sub(r"\S+/slurm/", "", job) for job in jobs]
    after = "--kill-on-invalid-dep=yes --dependency=afterok"
    assert scripts == [
        "--parsable prepare.sbatch name=big filter=*",
        f"--parsable --nodes=2 --gres=gpu:a100:8 {after}:1 train.sbatch +experiment=cpt/x "
        "trainer=gpu_8 paths.run_dir=runs/pipeline/mix80",
        f"--parsable {after}:2 evaluate.sbatch runs/pipeline/mix80/model -- seed=3",
    ]


def test_the_pipeline_evaluates_the_model_that_is_named(tmp_path: Path) -> None:
    _, jobs = pipeline(tmp_path, "mix80", "", "", "", "model_ema")
    assert jobs[-1].endswith("evaluate.sbatch runs/pipeline/mix80/model_ema --")


@pytest.mark.parametrize("arguments", [(), ("a b", "", "", ""), ("a", "", ""), ("a", *"bcdef")])
def test_a_wrong_pipeline_submits_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert pipeline(tmp_path, *arguments) == (2, [])
