from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch

from biomamba.diagnosis import machine as software
from biomamba.diagnosis.machine import (
    State,
    check_choice,
    check_kernels,
    check_versions,
    constraints_name,
    read_pins,
    usual_precision,
)
from biomamba.runtime.errors import MissingDependencyError


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return card(capability), which makes this a machine with such a GPU."""

    def _card(capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.version, "cuda", "12.6")

    return _card


def test_pins_of_included_files_count(tmp_path: Path) -> None:
    (tmp_path / "common.txt").write_text("# head\nhuggingface_hub==2.4.0\nNumpy==2.4.6 ; x\n")
    (tmp_path / "cpu.txt").write_text("-c common.txt\ntorch==2.13.0\n")

    assert read_pins(tmp_path / "cpu.txt") == {
        "huggingface-hub": "2.4.0",
        "numpy": "2.4.6",
        "torch": "2.13.0",
    }
    assert read_pins(tmp_path / "none.txt") == {}


def test_a_version_that_is_not_pinned_is_a_warning(tmp_path: Path) -> None:
    own = version("torch").split("+")[0]
    (tmp_path / constraints_name()).write_text(f"torch=={own}\nlightning==0.1\n")

    found = {finding.topic: finding for finding in check_versions(tmp_path)}

    assert found["torch"].state == State.OK  # the local part, as +cpu, does not count
    assert found["lightning"].state == State.WARNING
    assert "0.1 is what the tests run with" in found["lightning"].text
    assert found["numpy"].text.endswith("; not pinned")


def test_without_constraints_nothing_is_compared(tmp_path: Path) -> None:
    states = {finding.state for finding in check_versions(tmp_path / "none")}

    assert states == {State.OK}


def test_a_missing_package_is_a_warning_unless_it_is_optional(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(software, "version", missing)

    states = {finding.topic: finding.state for finding in check_versions()}

    assert states["lightning"] == State.WARNING
    assert states["transformers"] == State.OK


def refuse() -> None:
    raise MissingDependencyError("backend=fused needs mamba_ssm; install it: so")


def fail() -> None:
    raise AttributeError("module 'triton' has no attribute 'x'")


@pytest.mark.parametrize(
    ("capability", "build", "state"),
    [
        (None, refuse, State.OK),  # no GPU, no kernels
        ((7, 0), refuse, State.OK),
        ((8, 0), refuse, State.WARNING),
        ((9, 0), fail, State.WARNING),  # kernels of another torch
    ],
)
def test_missing_kernels_count_where_they_would_be_used(
    capability: tuple[int, int] | None,
    build: Any,
    state: State,
    card: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if capability:
        card(capability)
    monkeypatch.setattr(software, "FusedScan", build)

    assert [finding.state for finding in check_kernels()] == [state]


@pytest.mark.parametrize(
    ("capability", "precision", "constraints"),
    [((7, 0), "16-mixed", "v100.txt"), ((8, 0), "bf16-mixed", "cuda.txt")],
)
def test_precision_and_pins_follow_the_card(
    capability: tuple[int, int], precision: str, constraints: str, card: Any
) -> None:
    assert (usual_precision(), constraints_name()) == ("32-true", "cpu.txt")

    card(capability)

    assert (usual_precision(), constraints_name()) == (precision, constraints)


def test_the_choice_is_told_with_its_reason() -> None:
    backend, precision = check_choice("32-true", torch.device("cpu"), torch.float32)

    assert backend.text == "chunked: the fused kernels need an NVIDIA GPU, not cpu"
    assert precision.text.startswith("32-true: exact")
    asked = list(check_choice("bf16-mixed", torch.device("cpu"), torch.bfloat16))[1]
    assert asked.text == "bf16-mixed: asked for by precision="
