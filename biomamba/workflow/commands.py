"""The steps of a chain as commands to be typed: one by one, or for SLURM."""

import shlex
from collections.abc import Sequence

from biomamba.workflow.step import Step

_SCRIPTS = ("prepare", "train", "evaluate")
_CHECKPOINT = "checkpoint="


def shell_line(step: Step) -> str:
    """Return the command of a step."""
    return f"python -m {shlex.join(step.command)}"


def plain_script(steps: Sequence[Step]) -> str:
    """Return the commands in an order in which they can be typed."""
    return "\n".join(shell_line(step) for step in steps)


def slurm_script(steps: Sequence[Step]) -> str:
    """Return a shell script that submits one job per step, each behind those it builds upon."""
    lines = [
        "#!/usr/bin/env bash",
        "# From the top of the checkout; docs/slurm.md.",
        "set -euo pipefail",
    ]
    for step in steps:
        lines.append(f"{_variable(step.name)}=$({_submission(step)})")
    told = " ".join(f"{step.name}=${_variable(step.name)}" for step in steps)
    return "\n".join([*lines, f'echo "{told}"'])


def _submission(step: Step) -> str:
    words = ["sbatch", "--parsable", f"--job-name=biomamba-{step.name}"]
    if step.after:
        jobs = ":".join(f"${_variable(name)}" for name in step.after)
        # shlex would quote the variables.
        words += ["--kill-on-invalid-dep=yes", f"--dependency=afterok:{jobs}"]
    return " ".join([*words, *map(shlex.quote, step.sbatch), _job(step)])


def _job(step: Step) -> str:
    """Return the script of a step and its arguments; what needs no GPU and no script is wrapped."""
    if step.program not in _SCRIPTS:
        line = f'"${{BIOMAMBA_PYTHON:-.venv/bin/python}}" -m {shlex.join(step.command)}'
        return f"--wrap={shlex.quote(line)}"
    arguments = list(step.arguments)
    if step.program == "evaluate":
        models = [text for text in arguments if text.startswith(_CHECKPOINT)]
        others = [text for text in arguments if text not in models]
        arguments = [*(text.removeprefix(_CHECKPOINT) for text in models), "--", *others]
    return f"slurm/{step.program}.sbatch {shlex.join(arguments)}"


def _variable(name: str) -> str:
    return "job_" + "".join(letter if letter.isalnum() else "_" for letter in name)
