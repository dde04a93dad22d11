"""Run the jobs of a sweep (`-m seed=1,2,3`) one after the other; a bad one does not end the others.

Hydra's own sweeper composes all jobs first and gives up at the first that fails. Here each job is
checked before the first one starts, those with problems are left out, and every job is run like a
command line of its own. At the end the failed ones are listed with their overrides.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from biomamba.config.compose import preflight
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.ranks import is_rank_zero, world_size

_MODE = "hydra.mode="
# A job is a plain run, in the folder that a job of Hydra's sweeper has.
_FOLDER = "hydra.run.dir=${hydra.sweep.dir}/${hydra.sweep.subdir}"

RunJob = Callable[[Sequence[str]], int]
Report = Callable[[Exception], int]


def is_sweep(has_option: bool, overrides: Sequence[str]) -> bool:
    """Say whether a command line asks for a sweep, by -m or by hydra.mode."""
    return has_option or any(text.upper() == f"{_MODE}MULTIRUN".upper() for text in overrides)


@dataclass
class Sweep:
    """The jobs of a command line.

    Attributes:
        config_name: Primary config.
        overrides: Of the command line, with lists of values for some keys.
        extra_dir: Folder of --config-dir.
        failed: Exit code of each failed job, by its number.
    """

    config_name: str
    overrides: Sequence[str]
    extra_dir: Path | None = None
    failed: dict[int, int] = field(default_factory=dict)

    def run(self, run_job: RunJob, report: Report) -> int:
        """Run all jobs whose config can be built.

        Args:
            run_job: Runs a job, given its overrides, and returns its exit code.
            report: Prints the error of a job and returns its exit code.

        Returns:
            0 if all jobs succeeded; else the code they failed with, 1 if it differs.
        """
        jobs = self.jobs()
        for number, job in enumerate(jobs):
            self._attempt(number, job, self._check, report)
        for number, job in enumerate(jobs):
            if number not in self.failed:
                _say(f"job {number} of {len(jobs)}: {' '.join(job)}")
                numbered = [_FOLDER, f"hydra.job.num={number}", f"hydra.job.id={number}"]
                self._attempt(number, [*job, *numbered], run_job, report)
        for number, code in sorted(self.failed.items()):
            _say(f"failed: job {number} (exit code {code}): {' '.join(jobs[number])}")
        _say(f"{len(jobs) - len(self.failed)} of {len(jobs)} jobs succeeded")
        codes = set(self.failed.values())
        return codes.pop() if len(codes) == 1 else int(bool(codes))

    def jobs(self) -> list[list[str]]:
        """Return the overrides of each job.

        Raises:
            ConfigError: An override cannot be read, or names no list of values.
        """
        texts = [text for text in self.overrides if not text.startswith(_MODE)]
        try:
            parsed = OverridesParser.create().parse_overrides(texts)
        except HydraException as error:
            raise ConfigError(" ".join(str(error).split())) from error
        return [list(job) for job in itertools.product(*map(_values, parsed))]

    def _check(self, job: Sequence[str]) -> int:
        preflight(self.config_name, job, extra_dir=self.extra_dir)
        return 0

    def _attempt(self, number: int, job: Sequence[str], step: RunJob, report: Report) -> None:
        try:
            code = step(job)
        except Exception as error:
            if world_size() > 1:
                raise  # other ranks may wait for this one in a collective
            _say(f"job {number} failed:")
            code = report(error)
        if code:
            self.failed[number] = code


def _values(override: Override) -> list[str]:
    """Return an override for each of its values; one that is no sweep stays as it was written."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line}: not a list of values; use choice(...), range(...)"
        )
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _say(line: str) -> None:
    if is_rank_zero():
        sys.stderr.write(f"{line}\n")
