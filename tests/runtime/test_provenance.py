"""Records of where a result comes from."""

import getpass
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from biomamba.runtime.provenance import (
    config_hash,
    cpu_model,
    git_state,
    machine,
    package_versions,
    provenance,
)


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


def test_config_hash_ignores_the_order_of_keys() -> None:
    expected = hashlib.sha256(b'{"a":1,"b":[2.5,null]}').hexdigest()

    assert config_hash({"b": [2.5, None], "a": 1}) == expected
    assert config_hash({"a": 1, "b": [2.5, None]}) == expected
    assert config_hash({"a": 2, "b": [2.5, None]}) != expected


def test_versions_name_what_shapes_a_result() -> None:
    versions = package_versions()

    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "biomamba", "lightning", "numpy"} <= versions.keys()


def test_processor_is_read_where_the_system_tells_it(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n", encoding="utf-8")

    assert cpu_model(cpuinfo) == "Some CPU @ 2 GHz"
    assert cpu_model(tmp_path / "absent")


def test_machine_counts_the_usable_cores() -> None:
    assert 1 <= machine()["num_cores"] <= (os.cpu_count() or 1)


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")

    assert machine()["gpus"] == ["GPU 0", "GPU 1"]


def test_record_is_json_and_holds_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "very-secret")

    record = provenance({"seed": 1}, argv=["seed=1"])

    text = json.dumps(record)
    assert record["argv"] == ["seed=1"]
    assert record["config_sha256"] == config_hash({"seed": 1})
    assert "very-secret" not in text
    assert str(Path.home()) not in text
    assert f'"{getpass.getuser()}"' not in text
