"""The shipped scripts as a user submits them: profiles, a sweep, the pipeline."""

import re
import subprocess
from pathlib import Path

import pytest
from slurm_cluster import command
from slurm_jobs import ON_CPU, SCRIPTS, SMALL_RUN, Job, sbatch

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
PROFILES = [
    ("train.sbatch", "--nodes=2"),
    ("train.sbatch", "--nodes=2", "--gres=gpu:a100:8"),
    ("train.sbatch", "--nodes=2", "--gres=gpu:h100:8"),
    ("train.sbatch", "--ntasks-per-node=4", "--gres=gpu:h100:4"),
    ("sweep.sbatch", "--array=1-6%2", "--gres=gpu:a100:1"),
    ("sweep.sbatch", "--array=1-2", "--ntasks-per-node=8", "--gres=gpu:v100:8"),
    *[(path.name,) for path in sorted(SCRIPTS.glob("*.sbatch"))],
]


@pytest.mark.parametrize("profile", PROFILES, ids=" ".join)
@pytest.mark.usefixtures("cluster")
def test_slurm_accepts_every_script_as_it_is(profile: tuple[str, ...]) -> None:
    script, *options = profile
    assert "to start at" in command("sbatch", "--test-only", *options, SCRIPTS / script)


def sweep(workspace: Path, grid: Path) -> list[Job]:
    words = (str(grid), *SMALL_RUN, "trainer=cpu", "seed=7")
    number = sbatch("sweep.sbatch", workspace, "%x-%A_%a.log", (*ON_CPU, "--array=1-2"), *words)
    return [
        Job(
            f"{number}_{task}",
            workspace / f"biomamba-sweep-{number}_{task}.log",
            workspace / "runs" / "t" / f"{grid.stem}-{task}",
        )
        for task in (1, 2)
    ]


def test_a_task_of_a_sweep_is_requeued_alone_and_nothing_is_lost(workspace: Path) -> None:
    grid = workspace / "grid.txt"
    grid.write_text("seed=2 optimizer.lr=1e-3\nseed=2 optimizer.lr=1e-3\n")
    whole, stopped = tasks = sweep(workspace, grid)
    stopped.wait_until_training()
    # SLURM gives the last task the number of the array itself.
    assert stopped.field("JobId") == stopped.number.partition("_")[0]
    stopped.signal("USR1")
    assert [task.finish() for task in tasks] == ["COMPLETED"] * 2, stopped.text()
    assert [task.field("Restarts") for task in tasks] == ["0", "1"]
    assert [start["step"] for start in whole.starts()] == [0]
    first, second = stopped.starts()
    assert f"SIGUSR1: saved step {second['step']} in" in first["end"]
    assert f"job {stopped.number} is in the queue again" in first["end"]
    assert stopped.result() == whole.result()

    again = sweep(workspace, grid)
    assert [task.finish() for task in again] == ["COMPLETED"] * 2
    assert all("finished: " in task.log.read_text() for task in again)


def pipeline(folder: Path, prepare: str) -> list[Job]:
    options = " ".join(ON_CPU)
    run = [word for word in SMALL_RUN if not word.startswith("name=")]
    words = (
        f"{options} {prepare}",
        f"{options} --ntasks-per-node=1 trainer=cpu max_tokens=8_192 {' '.join(run[1:])}",
        f"{options} evaluation.max_documents=2",
    )
    done = subprocess.run(
        [SCRIPTS / "pipeline.sh", "small", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.fullmatch(
        r"prepare (\d+), train (\d+), evaluate (\d+): runs/pipeline/small", done.stdout.strip()
    )
    assert found, done.stdout + done.stderr
    names = ("prepare-{}", "train-{}", "evaluate-{}_1")
    return [
        Job(number, folder / f"biomamba-{name.format(number)}.log", folder / "runs/pipeline/small")
        for name, number in zip(names, found.groups(), strict=True)
    ]


@pytest.mark.usefixtures("cluster")
def test_the_pipeline_prepares_trains_and_evaluates_one_after_the_other(tmp_path: Path) -> None:
    jobs = pipeline(tmp_path, "")
    for job in jobs:
        assert job.finish() == "COMPLETED", job.text()
    times = [job.field(name) for job in jobs for name in ("StartTime", "EndTime")]
    assert times == sorted(times)
    assert (tmp_path / "runs/pipeline/small/model/model.safetensors").is_file()
    results = tmp_path / f"runs/evaluate/{jobs[-1].number}-1/results.md"
    assert "biomedical" in results.read_text()


@pytest.mark.usefixtures("cluster")
def test_what_follows_a_failed_job_is_cancelled(tmp_path: Path) -> None:
    jobs = pipeline(tmp_path, "no_such_key=1")
    assert [job.finish() for job in jobs] == ["FAILED", "CANCELLED", "CANCELLED"], jobs[0].text()
    assert jobs[0].field("ExitCode") == "2:0"
    assert "no_such_key" in jobs[0].text()
