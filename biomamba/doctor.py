"""Say what this machine has, what a run on it would use, and whether its numbers are right.

    python -m biomamba.doctor
    python -m biomamba.doctor precision=bf16-mixed paths.run_dir=/scratch/runs output=doctor.json

Reads and computes for some seconds; leaves nothing but `output`. Exit code 0, or 3 if there is a
problem; warnings do not count.
"""

from biomamba.runtime import signals

if __name__ == "__main__":
    signals.start_program()

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from biomamba.config.cli import run_cli
from biomamba.diagnosis.machine import (
    Check,
    Finding,
    State,
    check_choice,
    check_gpus,
    check_kernels,
    check_memory,
    check_processor,
    check_slurm,
    check_versions,
    run_checks,
    usual_precision,
    worst,
)
from biomamba.diagnosis.numerics import (
    check_batches,
    check_fp16_range,
    check_isolation,
    check_parity,
)
from biomamba.diagnosis.storage import check_run_folder, check_stores
from biomamba.runtime.files import write_json
from biomamba.runtime.input_files import check_replaceable
from biomamba.runtime.provenance import machine, package_versions
from biomamba.training.launch import check_precision, product_dtype_of

PROBLEM_CODE = 3
_STYLES = {State.OK: "green", State.WARNING: "yellow", State.PROBLEM: "bold red"}


def main(cfg: DictConfig) -> int | None:
    """Run all checks, print the findings and write them."""
    if cfg.output is not None:
        check_replaceable(Path(cfg.output), ("findings", "worst"), "an earlier report of doctor")
    precision = cfg.precision or usual_precision()
    check_precision(precision)
    findings = run_checks(checks_of(precision, Path(cfg.paths.run_dir), Path(cfg.paths.data_dir)))
    Console().print(table(findings))
    states = [finding.state for finding in findings]
    print(f"problems: {states.count(State.PROBLEM)}, warnings: {states.count(State.WARNING)}")
    if cfg.output is not None:
        content = {
            "findings": [asdict(finding) for finding in findings],
            "worst": worst(findings),
            "machine": machine(),
            "versions": package_versions(),
        }
        write_json(Path(cfg.output), content)
    return PROBLEM_CODE if worst(findings) == State.PROBLEM else None


def checks_of(precision: str, run_dir: Path, data_dir: Path) -> list[tuple[str, Check]]:
    """Return all checks in the order of the report."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = product_dtype_of(precision)
    return [
        ("processor", check_processor),
        ("memory", check_memory),
        ("gpu", check_gpus),
        ("versions", check_versions),
        ("kernels", check_kernels),
        ("backend", partial(check_choice, precision, device, dtype)),
        ("parity", partial(check_parity, device, dtype)),
        ("packed documents", partial(check_isolation, device, dtype)),
        ("batch invariance", partial(check_batches, device)),
        ("fp16 range", partial(check_fp16_range, device)),
        ("run folder", partial(check_run_folder, run_dir)),
        ("slurm", check_slurm),
        ("token stores", partial(check_stores, data_dir)),
    ]


def table(findings: Sequence[Finding]) -> Table:
    """Tabulate the findings, each remedy below what it fixes."""
    result = Table(show_header=False, box=None, pad_edge=False)
    for _ in range(3):
        result.add_column(overflow="fold")
    for finding in findings:
        remedy = f"\n-> {finding.remedy}" if finding.remedy else ""
        style = _STYLES[finding.state]
        text = escape(f"{finding.text}{remedy}")
        result.add_row(f"[{style}]{finding.state}[/]", finding.topic, text)
    return result


if __name__ == "__main__":
    run_cli("doctor", main)
