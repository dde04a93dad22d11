"""Run a command-line program: check first, build later, and report a user's mistake in one line.

Exit codes: 0 done, 2 a mistake that the user can fix (also unknown options), 75 stopped by
SIGTERM, SIGUSR1, SIGUSR2 or the time limit so that the same command continues, 130 by Ctrl-C and
129 by SIGHUP (a training saves first), 1 a defect (with traceback); a program may return a code of
its own.
A refusal of the operating system (no such file, no right, no space) is a mistake, too.
HYDRA_FULL_ERROR=1 shows the traceback of a user's mistake too.
"""

import argparse
import itertools
import os
import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal import utils as hydra_internals
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from biomamba.config.check import check_config
from biomamba.config.compose import preflight
from biomamba.config.experiments import experiment_table
from biomamba.config.safety import checked_loading, conf_dir
from biomamba.config.schema import register_schemas
from biomamba.runtime import signals, slurm
from biomamba.runtime.errors import BioMambaError, ConfigError, as_file_error
from biomamba.runtime.output import keep_going_without_reader
from biomamba.runtime.ranks import is_rank_zero, rank, world_size

# -------------------------------------------------------------------------------------------------
# Run the jobs of a sweep (`-m seed=1,2,3`) one after the other; a bad one does not end the others.
#
# Hydra's own sweeper composes all jobs first and gives up at the first that fails. Here each job is
# checked before the first one starts, those with problems are left out, and every job is run like a
# command line of its own. At the end the failed ones are listed with their overrides.
# -------------------------------------------------------------------------------------------------

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


# -------------------------------------------------------------------------------------------------
# Run a command-line program: check first, build later, and report a user's mistake in one line.
# -------------------------------------------------------------------------------------------------

DEFECT_CODE = 1
USER_ERROR_CODE = 2
STOPPED_CODE = signals.STOPPED_CODE
INTERRUPTED_CODE = signals.INTERRUPTED_CODE


def run_cli(config_name: str, main: Callable[[DictConfig], int | None]) -> None:
    """Compose `config_name` with the command line, check it, and call `main` with it.

    The process exits with the code that `main` returns unless that is None or 0.
    """
    try:
        keep_going_without_reader()
        signals.interruptible()
        register_schemas()
        code = _run(config_name, main)
        # All is written: a signal during the exit of the interpreter would change the exit code.
        signals.ignore()
    except signals.Interrupted as stop:
        _exit_stopped(stop)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one waits for no thread
        sys.stderr.write("stopped: SIGINT\n")
        sys.exit(INTERRUPTED_CODE)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(report_failure(error))
    if code:
        sys.exit(code)


def report_failure(error: Exception) -> int:
    """Print a user's mistake as one line, a defect with its traceback; return the exit code."""
    mistake = as_mistake(error)
    if mistake is None:
        traceback.print_exception(error)
        return DEFECT_CODE
    prefix = f"error (rank {rank()}): " if world_size() > 1 else "error: "
    sys.stderr.write(f"{prefix}{mistake}\n")
    return USER_ERROR_CODE


def as_mistake(error: Exception) -> BioMambaError | None:
    """Return what the user can fix; None for a defect."""
    if isinstance(error, BioMambaError):
        return error
    if isinstance(error, OSError):
        return as_file_error(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        causes = [error, error.__cause__] if error.__cause__ is not None else [error]
        lines = [" ".join(str(each).split()) for each in causes]
        return ConfigError(": ".join(dict.fromkeys(line for line in lines if line)))
    return None


def _run(config_name: str, main: Callable[[DictConfig], int | None]) -> int:
    if "--list" in sys.argv[1:]:
        sys.stdout.write(f"{experiment_table(config_name, _config_folders())}\n")
        return 0
    arguments = get_args_parser().parse_args(sys.argv[1:])
    if arguments.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun unpickles a file, which may run its code")
    extra_dir = Path(arguments.config_dir) if arguments.config_dir else None
    if extra_dir is not None and not extra_dir.is_dir():
        raise ConfigError(f"--config-dir must name a folder, found {extra_dir}")
    name = arguments.config_name or config_name
    if not _runs_shipped_files(arguments):
        return _run_hydra(config_name, main)
    if is_sweep(arguments.multirun, arguments.overrides):
        sweep = Sweep(name, arguments.overrides, extra_dir)
        return sweep.run(partial(_run_job, arguments, config_name, main), report_failure)
    preflight(name, arguments.overrides, extra_dir=extra_dir)
    signals.check()
    return _run_hydra(config_name, main)


def _run_job(
    arguments: Namespace,
    config_name: str,
    main: Callable[[DictConfig], int | None],
    overrides: Sequence[str],
) -> int:
    """Run one job of a sweep as if its overrides were the command line."""
    options = [f"--config-name={arguments.config_name}"] if arguments.config_name else []
    options += [f"--config-dir={arguments.config_dir}"] if arguments.config_dir else []
    command_line = sys.argv
    sys.argv = [command_line[0], *options, *overrides]
    try:
        return _run_hydra(config_name, main)
    finally:
        sys.argv = command_line


def _run_hydra(config_name: str, main: Callable[[DictConfig], int | None]) -> int:
    """Let Hydra compose the config, make the run folder and call `main`; return its code."""
    failures: list[Exception] = []
    codes: list[int] = []

    def job(cfg: DictConfig) -> None:
        try:
            check_config(cfg)
            codes.append(main(cfg) or 0)
        except Exception as error:  # noqa: BLE001 - Hydra would print it in words of its own
            failures.append(error)

    decorate = hydra.main(config_path=str(conf_dir()), config_name=config_name, version_base="1.3")
    with checked_loading(), _errors_come_out():
        decorate(job)()
    if failures:
        raise failures[0]
    return max(codes, default=0)


@contextmanager
def _errors_come_out() -> Iterator[None]:
    """Let the errors of Hydra itself come out; it would print their traceback and exit with 1."""
    internals: Any = hydra_internals
    original = internals.run_and_report
    internals.run_and_report = lambda function: function()
    try:
        yield
    finally:
        internals.run_and_report = original


def _runs_shipped_files(arguments: Namespace) -> bool:
    """Say whether this command line runs jobs from the shipped files.

    The other commands (--help, --cfg, --info, ...) are Hydra's.
    """
    others = ("help", "hydra_help", "cfg", "info", "shell_completion", "config_path")
    return not any(getattr(arguments, name, None) for name in others)


def _config_folders() -> list[Path]:
    """Return the folder of --config-dir, if given, and that of the shipped files."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    extra = parser.parse_known_args(sys.argv[1:])[0].config_dir
    return [extra, conf_dir()] if extra else [conf_dir()]


def _exit_stopped(stop: signals.Interrupted) -> NoReturn:
    """Ask SLURM to start the job again, unless that was done, and end.

    Early in a program the ranks stop one by one, so each of them asks: the first one that ends
    takes the others with it.
    """
    reasons = [stop.reason] if stop.is_settled else [stop.reason, slurm.go_on(stop.number)]
    if is_rank_zero() or not stop.is_settled:
        sys.stderr.write(f"stopped: {'; '.join(reasons)}\n")
    signals.ignore()
    sys.exit(stop.exit_code)
