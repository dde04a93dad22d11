"""Run a command-line program: check first, build later, and report a user's mistake in one line.

Exit codes: 0 done, 2 a mistake that the user can mend (also unknown options), 75 stopped by
SIGTERM, SIGUSR1, SIGUSR2 or the time limit so that the same command goes on, 130 by Ctrl-C and 129
by SIGHUP (a training saves first), 1 a defect (with traceback); a program may return a code of its
own.
HYDRA_FULL_ERROR=1 shows the traceback of a user's mistake too.
"""

import argparse
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from biomamba.config.check import check_config
from biomamba.config.compose import preflight
from biomamba.config.experiments import experiment_table
from biomamba.config.location import conf_dir
from biomamba.config.safety import checked_loading
from biomamba.config.schema import register_schemas
from biomamba.runtime import signals, slurm
from biomamba.runtime.errors import BioMambaError, ConfigError
from biomamba.runtime.output import keep_going_without_reader
from biomamba.runtime.ranks import is_rank_zero, rank, world_size

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
        if "--list" in sys.argv[1:]:
            sys.stdout.write(f"{experiment_table(config_name, _config_folders())}\n")
            return
        arguments = get_args_parser().parse_args(sys.argv[1:])
        if arguments.experimental_rerun is not None:
            raise ConfigError("--experimental-rerun unpickles a file, which may run its code")
        if _is_plain_run(arguments):
            _preflight(arguments, config_name)
            signals.check()
        _hydra_main(config_name, main)
        # All is written: a signal during the exit of the interpreter would change the exit code.
        signals.ignore()
    except BioMambaError as error:
        _exit_with(error)
    except signals.Interrupted as stop:
        _exit_stopped(stop)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one waits for no thread
        sys.stderr.write("stopped: SIGINT\n")
        sys.exit(INTERRUPTED_CODE)


def _hydra_main(config_name: str, main: Callable[[DictConfig], int | None]) -> None:
    os.umask(umask := os.umask(0o022))

    def job(cfg: DictConfig) -> None:
        os.umask(umask)  # an earlier job of a sweep may have kept its files private
        try:
            check_config(cfg)
            code = main(cfg)
        except BioMambaError as error:
            _exit_with(error)
        if code:
            sys.exit(code)

    decorate = hydra.main(config_path=str(conf_dir()), config_name=config_name, version_base="1.3")
    with checked_loading(_exit_with):
        decorate(job)()


def _is_plain_run(arguments: Namespace) -> bool:
    """Say whether this command line runs one job from the shipped files.

    The other commands (--help, --cfg, --info, ...) are Hydra's; the jobs of a sweep check
    themselves.
    """
    others = ("help", "hydra_help", "cfg", "info", "multirun", "shell_completion", "config_path")
    has_other = any(getattr(arguments, name, None) for name in others)
    return not has_other


def _preflight(arguments: Namespace, config_name: str) -> None:
    if any(text.startswith("hydra.mode=") for text in arguments.overrides):
        return
    extra_dir = Path(arguments.config_dir) if arguments.config_dir else None
    if extra_dir is not None and not extra_dir.is_dir():
        raise ConfigError(f"--config-dir must name a folder, found {extra_dir}")
    preflight(arguments.config_name or config_name, arguments.overrides, extra_dir=extra_dir)


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


def _exit_with(error: BioMambaError) -> NoReturn:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    prefix = f"error (rank {rank()}): " if world_size() > 1 else "error: "
    sys.stderr.write(f"{prefix}{error}\n")
    sys.exit(USER_ERROR_CODE)
