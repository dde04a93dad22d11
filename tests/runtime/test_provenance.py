"""Records of where a result comes from."""

import getpass
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from biomamba.runtime.provenance import (
    config_hash,
    cpu_model,
    machine,
    package_versions,
    provenance,
)


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
