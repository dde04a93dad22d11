"""Where a result comes from: code, versions, machine and configuration, as plain values.

Never the environment, user names or folders of the machine: records are made to be published.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

# -------------------------------------------------------------------------------------------------
# Which code made a result: the version of the package and, in a checkout, the commit.
# -------------------------------------------------------------------------------------------------

CHECKOUT = Path(__file__).resolve().parents[2]
_GIT_SECONDS = 10


@cache
def code_version() -> dict[str, Any]:
    """Return the version of the package and the state of its checkout, None outside of one."""
    try:
        package = version("biomamba")
    except PackageNotFoundError:
        package = "not installed"
    return {"version": package, "git": git_state(CHECKOUT)}


def git_state(checkout: Path) -> dict[str, Any] | None:
    """Return the commit and whether tracked files differ from it; None outside a checkout."""
    if not (checkout / ".git").exists():
        return None
    commit = _git(checkout, "rev-parse", "HEAD")
    status = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    if commit is None or status is None:
        return None
    return {"commit": commit, "is_dirty": bool(status)}


def _git(checkout: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(checkout), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


# -------------------------------------------------------------------------------------------------
# Where a result comes from: code, versions, machine and configuration, as plain values.
# -------------------------------------------------------------------------------------------------

_PACKAGES = ("biomamba", "torch", "lightning", "hydra-core", "datasets", "tokenizers", "numpy")
_OPTIONAL_PACKAGES = ("triton", "mamba-ssm", "causal-conv1d")


def provenance(config: Mapping[str, Any], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the record of this process.

    Args:
        config: the resolved configuration as plain dicts and lists.
        argv: the command line's arguments without the program; those of this process if None.
    """
    return {
        "argv": list(sys.argv[1:] if argv is None else argv),
        "config_sha256": config_hash(config),
        "git": git_state(CHECKOUT),
        "versions": package_versions(),
        "machine": machine(),
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the configuration, whatever the order of its keys.

    Raises:
        TypeError: a value is neither a scalar, list nor dict.
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that shape a result."""
    versions = {"python": platform.python_version()}
    for package in (*_PACKAGES, *_OPTIONAL_PACKAGES):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            if package in _PACKAGES:
                versions[package] = "not installed"
    return versions


def machine() -> dict[str, Any]:
    """Return the kind of machine: system, processor, cores this process may use, GPUs."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "num_cores": len(os.sched_getaffinity(0)) if _has_affinity() else os.cpu_count(),
        "gpus": gpus if torch.cuda.is_available() else [],
        "cuda": torch.version.cuda,
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's trade name where the system tells it, else its architecture."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _has_affinity() -> bool:
    return hasattr(os, "sched_getaffinity")
