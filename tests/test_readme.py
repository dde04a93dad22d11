"""The README starts with the two commands, and its tour is the real tree."""

import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
TOUR = re.search(r"^## Tour$.*?^```\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# Of these the tour shows what is inside; of conf/ the groups alone.
SHOWN = ("biomamba", "conf")


def tracked() -> set[str]:
    done = subprocess.run(
        ["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or "README.md" not in done.stdout.split():
        pytest.skip("no git checkout: what belongs to the tree is not known")
    return set(done.stdout.split("\n")) - {""}


def real_tree() -> set[str]:
    names = set()
    for path in tracked():
        first, *rest = path.split("/")
        names.add(f"{first}/" if rest else first)
        if first in SHOWN and rest and (first != "conf" or len(rest) > 1):
            names.add(f"{first}/{rest[0]}/" if len(rest) > 1 else path)
    return names - {"biomamba/__init__.py"}


def told_tree() -> dict[str, str]:
    assert TOUR, "the README has no tour"
    folder, told = "", {}
    for line in TOUR[1].splitlines():
        name, _, phrase = line.strip().partition(" ")
        if not line.startswith(" "):
            folder = name
        told[name if folder == name else f"{folder}{name}"] = phrase.strip()
    return told


def test_the_readme_begins_with_the_two_commands() -> None:
    assert README.startswith("# BioMamba\n\n```sh\nmake demo ")
    assert README.splitlines()[4].startswith("make test ")


def test_the_tour_is_the_real_tree() -> None:
    told = told_tree()
    assert sorted(told) == sorted(real_tree())
    assert all(told.values())


def test_the_index_holds_every_page() -> None:
    pages = {path for path in tracked() if re.fullmatch(r"docs/(howto/)?[\w-]+\.md", path)}
    linked = set(re.findall(r"\]\((docs/[\w/-]+\.md)\)", README))
    assert pages <= linked, f"not in the README: {sorted(pages - linked)}"
