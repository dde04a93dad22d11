"""Measure alternatives in turn and record what they were measured on.

CPU seconds are those of the process and of the workers it has waited for. Alternatives are run one
after the other in every repeat, so that a machine that slows down slows all of them down.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "lightning", "datasets", "tokenizers", "numpy", "pyarrow")


@dataclass(frozen=True)
class Sample:
    """One measurement: how much was done, and what it cost."""

    amount: float
    cpu_seconds: float
    wall_seconds: float

    @property
    def per_cpu_second(self) -> float:
        """Amount per CPU second."""
        return self.amount / self.cpu_seconds

    @property
    def per_wall_second(self) -> float:
        """Amount per second of the clock."""
        return self.amount / self.wall_seconds


def measure(work: Callable[[], "float | Sample"]) -> Sample:
    """Measure work that returns how much it has done."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    done = work()
    if isinstance(done, Sample):
        return done
    return Sample(done, cpu_seconds() - cpu, time.perf_counter() - wall)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def in_turn(
    cases: Mapping[str, Callable[[], float | Sample]], repeats: int
) -> dict[str, list[Sample]]:
    """Measure every case once per repeat; work that measures itself returns its sample."""
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, work in cases.items():
            samples[name].append(measure(work))
    return samples


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def text_of(values: Mapping[str, float], digits: int = 2) -> str:
    """Write a spread as `median (smallest to largest)`."""
    median, low, high = (f"{values[key]:,.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; all columns but the first hold figures."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def write_result(name: str, results: Mapping[str, Any], output: Path | None = None) -> Path:
    """Write results with the machine, the versions, the commit and the command."""
    path = output or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": name,
        "command": ["python", *sys.argv],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _git("rev-parse", "HEAD"),
        "is_changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | _versions(),
        "results": results,
    }
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return path


def machine() -> dict[str, Any]:
    """Describe the machine and how busy it is."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": models[0].split(":", 1)[1].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gigabytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "load_average": os.getloadavg(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
