"""Which code made a result: the version of the package and, in a checkout, the commit."""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
