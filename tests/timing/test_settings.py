"""What is measured."""

from typing import Any

import pytest
import torch

from biomamba.runtime.errors import ConfigError
from biomamba.timing.records import EfficiencySettings, Point


def settings(**changes: Any) -> EfficiencySettings:
    values: dict[str, Any] = {"phases": ["decode", "train"], "lengths": [64, 16], "batches": [2, 1]}
    return EfficiencySettings(**{**values, **changes})


def test_points_go_phase_by_phase_from_short_to_long() -> None:
    points = settings().points()

    assert points[:3] == [Point("train", 1, 16), Point("train", 1, 64), Point("train", 2, 16)]
    assert [point.phase for point in points] == ["train"] * 4 + ["decode"] * 4
    assert points[2].tokens == 32


def test_more_points_are_no_other_conditions() -> None:
    more = settings(phases=["prefill"], lengths=[128], batches=[4])

    assert more.conditions() == settings().conditions()
    assert settings(repeats=7).conditions() != settings().conditions()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"phases": ["trian"]}, r"phases has \['trian'\]: allowed are train, prefill, decode"),
        ({"phases": []}, "phases=.*at least one"),
        ({"lengths": [8, 8]}, "lengths=.*each once"),
        ({"lengths": [0]}, "lengths.0. must be .* at least 1, found"),
        ({"batches": [-1]}, "batches.0. must be .* at least 1, found"),
        ({"repeats": 0}, "repeats must be .*, found 0"),
        ({"warmup": 0}, "warmup must be .*, found 0"),
        ({"threads": 0}, "threads must be .*, found 0"),
        ({"memory_gib": 0.0}, "memory_gib must be .*, found 0.0"),
        ({"precision": "16-true"}, "precision='16-true': must be 32-true or bf16-mixed"),
        ({"device": "tpu"}, "device='tpu': must be auto or cpu or cuda"),
    ],
)
def test_settings_check_themselves(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**changes)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert settings().torch_device() == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"efficiency\.device=cuda, but torch finds no GPU"):
        settings(device="cuda").torch_device()
    with pytest.raises(ConfigError, match="16-mixed needs a GPU"):
        settings(precision="16-mixed").torch_device()


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    assert settings(precision="16-mixed").torch_device().type == "cuda"
    assert settings(device="cpu").torch_device().type == "cpu"
    assert settings(precision="bf16-mixed").product_dtype == torch.bfloat16
