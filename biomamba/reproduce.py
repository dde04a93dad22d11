"""Run a whole chain, from data to report, with one command that may be stopped anywhere.

    python -m biomamba.reproduce chain=small paths.raw_dir=raw
    python -m biomamba.reproduce chain=small dry_run=true

The same command again continues with the first step that is not finished. Writes into the folder of
the chain: steps/ (a record of each step that ended), logs/, and the folder of each step. Exit code
75: stopped so that the same command continues (130 by Ctrl-C, 129 by SIGHUP); else that of the step
that failed.
docs/reproducing.md.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from biomamba.config.check import build
from biomamba.config.cli import run_cli
from biomamba.config.compose import checked_settings
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_whole
from biomamba.runtime.provenance import config_hash
from biomamba.runtime.signals import Interrupted
from biomamba.training.lineage import keep_private
from biomamba.workflow.chain import Chain, Step, check_raw_files, plain_script, slurm_script
from biomamba.workflow.record import Record, chosen_steps, finished_steps, forget, read_record
from biomamba.workflow.runner import (
    Ending,
    Runner,
    chain_lock,
    duration,
    last_lines,
    remaining_seconds,
    rough,
    stop_request,
)


def main(cfg: DictConfig) -> int | None:
    """Check all steps of the chain, then print or run them."""
    if cfg.print not in (None, "slurm"):
        raise ConfigError(f"print is {cfg.print!r}; allowed: slurm, or null to run the chain")
    check_whole("jobs", cfg.jobs)
    chain: Chain = build(cfg.chain)
    places = [f"paths.data_dir={cfg.paths.data_dir}"]
    if chain.raw_files and cfg.paths.raw_dir is not None:
        places.append(f"paths.raw_dir={cfg.paths.raw_dir}")
    steps = chain.expand(cfg.paths.run_dir, tuple(places))
    again = chosen_steps(steps, list(cfg.rerun))
    configs = configs_of(steps)
    settings = {name: config_hash(found) for name, found in configs.items()}
    if cfg.dry_run or cfg.print:
        print(slurm_script(steps) if cfg.print else plain_script(steps))
        return None
    check_raw_files(chain.raw_files, cfg.paths.raw_dir)
    folder = Path(cfg.paths.run_dir)
    keep_private(configs, folder)
    with chain_lock(folder) as held:
        records = records_of(steps, folder)
        kept = {name: record for name, record in records.items() if name not in again}
        finished = finished_steps(steps, kept)
        for place in forget(steps, again, folder):
            tell(f"moved aside: {place}")
        note_changes(kept, settings)
        runner = Runner(
            steps,
            folder,
            kept,
            finished,
            settings,
            extra=overwriting(steps, again),
            jobs=cfg.jobs,
            tell=tell,
        )
        announce(chain, runner)
        with stop_request() as request:
            ending = runner.run(request, (held,))
        return concluded(ending, runner, is_rerun=bool(again))


def configs_of(steps: Sequence[Step]) -> dict[str, dict[str, Any]]:
    """Compose and check each step as its program will, and return its settings.

    Raises:
        ConfigError: Some cannot be run; of steps made of one entry the first is told.
    """
    problems: dict[str, str] = {}
    configs = {}
    for step in steps:
        try:
            configs[step.name] = checked_settings(step.program, step.arguments)
        except ConfigError as error:
            problems.setdefault(step.template, f"{step.name}: {error}")
    if problems:
        raise ConfigError("\n".join(["the chain cannot be run:", *problems.values()]))
    return configs


def records_of(steps: Sequence[Step], folder: Path) -> dict[str, Record]:
    """Read what is known of the steps; one whose folder is gone has to run again."""
    found = {}
    for step in steps:
        record = read_record(folder, step.name)
        if record is not None and record.is_finished and not Path(step.output).exists():
            tell(f"{step.name} was finished, but {step.output} is gone")
        elif record is not None:
            found[step.name] = record
    return found


def note_changes(records: Mapping[str, Record], settings: Mapping[str, str]) -> None:
    """Say which finished steps would compute with other settings today."""
    changed = [
        name
        for name, record in records.items()
        if record.is_finished and record.settings_sha256 != settings[name]
    ]
    if changed:
        tell(
            f"note: files under conf/ have changed since {', '.join(changed)} finished; the "
            f"results are kept, rerun=[{','.join(changed)}] makes them again"
        )


def overwriting(steps: Sequence[Step], again: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return what lets a program replace what it wrote outside of the folder of its step."""
    return {
        step.name: ("overwrite=true",)
        for step in steps
        if step.name in again and step.program == "prepare"
    }


def announce(chain: Chain, runner: Runner) -> None:
    """Say what will be done and how long it may take."""
    rest = remaining_seconds(runner.steps, runner.records, {}, runner.jobs)
    tell(f"{chain.title}: {len(runner.steps)} steps in {runner.folder}")
    if runner.finished:
        tell(f"{len(runner.finished)} of them are finished")
    if len(runner.finished) < len(runner.steps):
        tell(f"remaining time: {rough(rest)}; Ctrl-C stops it, the same command continues")


def concluded(ending: Ending, runner: Runner, *, is_rerun: bool) -> int | None:
    """Say how the chain ended, and return the exit code of a step that failed.

    Raises:
        Interrupted: It was stopped.
    """
    if ending.stopped:
        left = len(runner.steps) - len(runner.finished)
        hint = " (without rerun=..., which would start again)" if is_rerun else ""
        reason = f"{ending.stopped}, {left} steps are left{hint}"
        raise Interrupted(reason, number=ending.number)
    if ending.failed is not None and ending.log is not None:
        sys.stderr.write(
            f"{last_lines(ending.log)}\n"
            f"error: step {ending.failed.name} failed with code {ending.exit_code}; above, the end "
            f"of {ending.log}. When it is fixed, the same command continues with this step\n"
        )
        return ending.exit_code
    took = sum(record.seconds for record in runner.records.values())
    tell(f"finished: all {len(runner.steps)} steps, {duration(took)} of computing")
    reports = [step.output for step in runner.steps if step.program == "report"]
    for place in reports:
        tell(f"report: {Path(place) / 'report.html'}")
    return None


def tell(line: str) -> None:
    """Print a line at once, also into a file."""
    print(line, flush=True)


if __name__ == "__main__":
    run_cli("reproduce", main)
