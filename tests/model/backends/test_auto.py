"""What backend=auto takes on which device, and that it is exactly that backend."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model.backends import auto
from biomamba.model.backends.auto import AutoScan, choice_of
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.ssd import MixerParts
from biomamba.runtime.errors import MissingDependencyError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
FP32, BF16 = torch.float32, torch.bfloat16


class FusedStandIn(ChunkedScan):
    """Kernels that are installed."""

    name = "fused"
    has_convolution = True

    def __init__(self) -> None:
        super().__init__(16)

    def convolve(self, x: Tensor, *rest: Any) -> Tensor:
        return x + 1

    def mix(self, zxBCdt: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return zxBCdt + 2, zxBCdt


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU and its kernels; a test may change what it is."""
    found: dict[str, Any] = {"capability": (9, 0)}
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: found["capability"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X")
    monkeypatch.setattr(auto, "FusedScan", FusedStandIn)
    return found


def scan_inputs() -> list[Tensor]:
    x, dt = torch.randn(2, 130, 4, 8), torch.rand(2, 130, 4)
    B, C = torch.randn(2, 2, 130, 1, 8)
    return [x, dt, -torch.rand(4), B, C]


def test_on_a_cpu_it_gives_the_numbers_of_chunked() -> None:
    inputs = scan_inputs()
    seq_idx = (torch.arange(130) > 70).int().expand(2, -1)
    expected = ChunkedScan(64).scan(*inputs, seq_idx=seq_idx)

    for a, e in zip(AutoScan().scan(*inputs, seq_idx=seq_idx), expected, strict=True):
        assert torch.equal(a, e)


def test_on_a_cpu_nothing_more_is_promised() -> None:
    nothing: Any = None
    backend = AutoScan()

    assert backend.convolve(torch.zeros(1, 2, 8), nothing, nothing, None, None) is None
    assert backend.mix(torch.zeros(1, 2, 8), MixerParts(*[nothing] * 9), None) is None


def test_on_a_gpu_with_kernels_it_takes_them(gpu: dict[str, Any]) -> None:
    choice = AutoScan().choice(GPU, BF16)

    assert choice.backend.name == "fused"
    assert choice.reason == "NVIDIA X (compute capability 9.0) runs its kernels"


def test_mamba_1_has_no_kernels_that_know_documents(gpu: dict[str, Any]) -> None:
    choice = AutoScan().choice(GPU, BF16, is_selective=True)

    assert choice.backend.name == "chunked"
    assert choice.reason == "Mamba-1 has no fused kernel that knows documents"


def test_missing_convolution_kernels_are_told(
    gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FusedStandIn, "has_convolution", False)

    assert AutoScan().choice(GPU, BF16).reason.endswith(", without those of causal-conv1d")


@pytest.mark.parametrize(
    ("capability", "dtype", "reason"),
    [
        ((7, 0), torch.float16, "compute capability 7.0) the fused kernels would not use the"),
        ((7, 5), torch.float16, "compute capability 7.5)"),
        ((9, 0), torch.float64, "the fused kernels have no float64"),
    ],
)
def test_what_keeps_the_kernels_from_a_gpu(
    capability: tuple[int, int], dtype: torch.dtype, reason: str, gpu: dict[str, Any]
) -> None:
    gpu["capability"] = capability
    choice = AutoScan().choice(GPU, dtype)

    assert choice.backend.name == "chunked"
    assert reason in choice.reason


def test_without_the_packages_a_gpu_runs_chunks(
    gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingDependencyError("backend=fused needs the module mamba_ssm")

    monkeypatch.setattr(auto, "FusedScan", missing)
    choice = AutoScan().choice(GPU, BF16)

    assert choice.backend.name == "chunked"
    assert "needs the module mamba_ssm" in choice.reason


def test_other_gpus_than_nvidia_run_chunks(
    gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)

    assert AutoScan().choice(GPU, BF16).backend.name == "chunked"


def test_all_goes_to_the_chosen_backend() -> None:
    backend = AutoScan()
    backend._choices[CPU, FP32, False] = auto.Choice(FusedStandIn(), "a test")
    nothing: Any = None
    x = torch.zeros(1, 2, 8)

    assert (backend.convolve(x, nothing, nothing, None, None) == 1).all()
    mixed = backend.mix(x, MixerParts(*[nothing] * 9), None)
    assert mixed is not None
    assert (mixed[0] == 2).all()
    torch.testing.assert_close(
        backend.scan(*(inputs := scan_inputs())), FusedStandIn().scan(*inputs)
    )


def test_one_line_tells_the_choice(caplog: pytest.LogCaptureFixture) -> None:
    backend = AutoScan()
    with caplog.at_level(logging.INFO):
        for dtype in (FP32, BF16, FP32):
            backend.choice(CPU, dtype)

    assert caplog.messages == [
        "backend=auto takes chunked: the fused kernels need an NVIDIA GPU, not cpu"
    ]


def test_a_backend_that_was_asked_for_is_its_own_choice() -> None:
    backend = ReferenceScan()

    assert choice_of(backend, CPU, FP32) == (backend, "asked for by backend=reference")
    assert choice_of(AutoScan(), CPU, FP32).backend.name == "chunked"
