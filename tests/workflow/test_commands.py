"""Steps as commands: what a shell makes of them is what the chain would start."""

import shlex
import subprocess
from pathlib import Path

from biomamba.workflow.chain import Step, plain_script, shell_line, slurm_script

STEPS = (
    Step(
        name="data",
        template="data",
        program="prepare",
        overrides=("name=x y",),
        after=(),
        minutes=1,
        output="runs/data",
    ),
    Step(
        name="cpt-1",
        template="cpt",
        program="train",
        overrides=("a={b: [1, 2]}", "c=$HOME"),
        after=("data",),
        minutes=1,
        output="runs/cpt",
        sbatch=("--nodes=2",),
    ),
    Step(
        name="score",
        template="score",
        program="evaluate",
        overrides=("+experiment=e", "checkpoint=runs/cpt/model"),
        after=("data", "cpt-1"),
        minutes=1,
        output="runs/score",
    ),
    Step(
        name="report",
        template="report",
        program="report",
        overrides=("runs=[runs/cpt,runs/score]", "title=It's done"),
        after=("score",),
        minutes=1,
        output="runs/report",
    ),
)


def test_a_shell_reads_the_command_of_a_step() -> None:
    for step in STEPS:
        assert shlex.split(shell_line(step)) == ["python", "-m", *step.command]
    assert plain_script(STEPS).splitlines() == [shell_line(step) for step in STEPS]


def test_the_script_for_slurm_submits_each_step_behind_those_it_needs(tmp_path: Path) -> None:
    """A stand-in for sbatch writes down its arguments and prints a number."""
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(
        '#!/usr/bin/env bash\nprintf "%s\\n" "$@" END >> "$0.log"\ngrep -c "^END$" "$0.log"\n'
    )
    sbatch.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f"PATH={tmp_path}:$PATH; {slurm_script(STEPS)}"],
        capture_output=True,
        text=True,
        check=True,
    )
    jobs = (tmp_path / "sbatch.log").read_text().split("END\n")[:-1]
    words = [job.splitlines() for job in jobs]

    assert done.stdout == "data=1 cpt-1=2 score=3 report=4\n"
    assert [[word for word in job if "--dependency" in word] for job in words] == [
        [],
        ["--dependency=afterok:1"],
        ["--dependency=afterok:1:2"],
        ["--dependency=afterok:3"],
    ]
    assert words[0][-3:] == ["slurm/prepare.sbatch", *STEPS[0].arguments]
    assert words[1][-5:] == ["--nodes=2", "slurm/train.sbatch", *STEPS[1].arguments]
    assert words[2][-4:] == [
        "runs/cpt/model",
        "--",
        "+experiment=e",
        "paths.run_dir=runs/score",
    ]
    wrapped = next(word for word in words[3] if word.startswith("--wrap="))
    assert shlex.split(wrapped.removeprefix("--wrap="))[1:] == ["-m", *STEPS[3].command]
