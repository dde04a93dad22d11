"""Which code made a result."""

import subprocess
from pathlib import Path

import pytest

from biomamba.runtime.provenance import code_version, git_state


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("a", encoding="utf-8")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_commit_of_a_clean_checkout(checkout: Path) -> None:
    expected = {"commit": git(checkout, "rev-parse", "HEAD"), "is_dirty": False}

    assert git_state(checkout) == expected


def test_changed_file_makes_the_checkout_dirty(checkout: Path) -> None:
    (checkout / "file").write_text("b", encoding="utf-8")

    state = git_state(checkout)

    assert state is not None
    assert state["is_dirty"] is True


def test_installed_package_has_no_commit(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None


def test_checkout_without_git_has_no_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")

    assert git_state(checkout) is None


def test_the_package_is_named_with_its_version() -> None:
    version = code_version()

    assert version.keys() == {"version", "git"}
    assert version["version"][0].isdigit()
