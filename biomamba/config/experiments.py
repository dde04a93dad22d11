"""The experiments that a program can run: files of conf/experiment with what they are for."""

from collections.abc import Sequence
from pathlib import Path

_PACKAGE_LINE = "# @package"


def program_of(name: str) -> str:
    """Return the program that runs an experiment, from its folder and the start of its name."""
    folder, _, stem = name.partition("/")
    if folder in ("eval", "bench"):
        return {"eval": "evaluate", "bench": "efficiency"}[folder]
    first = stem.split("_")[0]
    return first if first in ("prepare", "evaluate") else "train"


def list_experiments(program: str, folders: Sequence[Path]) -> dict[str, str]:
    """Return name and first comment line of the experiments of a program, sorted by name.

    Args:
        program: Its name, e.g. "train".
        folders: Configuration folders, e.g. that of --config-dir before the shipped one.
    """
    found: dict[str, str] = {}
    for folder in folders:
        root = folder / "experiment"
        for path in sorted(root.rglob("*.yaml")):
            name = path.relative_to(root).with_suffix("").as_posix()
            # A file that starts with an underscore is a part of others.
            if not path.stem.startswith("_") and program_of(name) == program:
                found.setdefault(name, _first_comment(path))
    return dict(sorted(found.items()))


def experiment_table(program: str, folders: Sequence[Path]) -> str:
    """Return one line per experiment of a program, as text to print."""
    found = list_experiments(program, folders)
    if not found:
        return f"no experiment is made for biomamba {program}"
    width = max(map(len, found))
    lines = [f"  {name:<{width}}  {text}".rstrip() for name, text in found.items()]
    return "\n".join([f"biomamba {program} +experiment=<name>, where <name> is one of", *lines])


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith(_PACKAGE_LINE):
            return line.lstrip("# ").strip()
    return ""
