"""`python -m biomamba.efficiency` with small models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from biomamba.config.compose import compose_config
from biomamba.efficiency import limit_bytes, main
from biomamba.runtime.errors import ConfigError
from biomamba.timing.records import EFFICIENCY_FILE, EfficiencySettings, read_efficiency

SMALL = (
    "model=mamba2_tiny",
    "model.config.n_layer=2",
    "backend=chunked",
    "efficiency.lengths=[8,16]",
    "efficiency.decode_tokens=2",
    "efficiency.product_size=16",
    "efficiency.repeats=2",
)


def run(folder: Path, *overrides: str) -> None:
    main(compose_config("efficiency", [*SMALL, f"paths.run_dir={folder}", *overrides]))


def test_all_phases_of_both_models_are_measured_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    path = tmp_path / EFFICIENCY_FILE
    before = path.read_bytes()
    records = read_efficiency(path)

    assert {(r.phase, r.model, r.length) for r in records} == {
        (phase, model, length)
        for phase in ("train", "prefill", "decode")
        for model in ("mamba2", "transformer")
        for length in (8, 16)
    }
    assert all(len(r.seconds) == 2 and r.failure is None for r in records)
    ours, theirs = (
        {r.num_parameters for r in records if r.model == m} for m in ("mamba2", "transformer")
    )
    assert abs(theirs.pop() / ours.pop() - 1) <= 0.02
    assert records[0].shape["backend"] == "chunked"
    told = json.loads(before.splitlines()[0])["conditions"]
    assert told["model"]["config"]["n_layer"] == 2
    assert told["device"] in ("cpu", "cuda")

    run(tmp_path)
    assert path.read_bytes() == before
    out = capsys.readouterr().out
    assert "6 of 6 points are in" in out
    assert "train 1 x length, mamba2: time ~ length^" in out

    with pytest.raises(ConfigError, match=r"repeats=2, now it is 3.*overwrite=true"):
        run(tmp_path, "efficiency.repeats=3")
    assert path.read_bytes() == before


def test_our_model_can_stand_alone(tmp_path: Path) -> None:
    run(tmp_path, "transformer=false", "efficiency.phases=[prefill]", "efficiency.lengths=[8]")
    (record,) = read_efficiency(tmp_path / EFFICIENCY_FILE)

    assert record.model == "mamba2"
    assert "transformers" not in record.conditions
    run(tmp_path, "transformer=false", "efficiency.phases=[prefill]", "overwrite=true")
    assert len(read_efficiency(tmp_path / EFFICIENCY_FILE)) == 2


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="measures one device, but 2 processes"):
        run(tmp_path)


def test_memory_ends_where_the_settings_say() -> None:
    values: dict[str, Any] = {"phases": ["train"], "lengths": [8], "batches": [1]}
    cpu = torch.device("cpu")
    assert limit_bytes(EfficiencySettings(**values, memory_gib=1.5), cpu) == 3 * 2**29
    assert limit_bytes(EfficiencySettings(**values), cpu) > 2**28
