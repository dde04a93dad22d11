"""The probe passes every backend that keeps documents apart and stops every other one."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model.backends.auto import AutoScan
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.isolation_probe import probe_isolation
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import ConfigError

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {"d_model": 32, "n_layer": 2, "vocab_size": 16, "d_state": 16}
CONFIG = Mamba2Config(**SIZES, headdim=16, ngroups=2)
CONFIGS = {
    "mamba2": CONFIG,
    "mamba2-static": Mamba2Config(**SIZES, headdim=16, static=("dt", "B", "C")),
    "mamba1": Mamba1Config(**SIZES),
    "mamba1-static": Mamba1Config(**SIZES, static=("B", "C")),
}
DTYPES = [torch.float32, torch.bfloat16]


class ForgetsDocuments(ChunkedScan):
    def scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return super().scan(*tensors, **options | {"seq_idx": None})

    def selective_scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return super().selective_scan(*tensors, **options | {"seq_idx": None})


class LeaksAtTheEdges(ChunkedScan):
    """A boundary on the edge of a chunk is overlooked, all others are kept."""

    def scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return super().scan(*tensors, **self._without_edges(options))

    def selective_scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return super().selective_scan(*tensors, **self._without_edges(options))

    def _without_edges(self, options: dict[str, Any]) -> dict[str, Any]:
        seq_idx = options["seq_idx"]
        if seq_idx is None:
            return options
        changes = seq_idx.diff(dim=1, prepend=seq_idx[:, :1]) != 0
        changes[:, :: self.chunk_size] = False
        return options | {"seq_idx": changes.cumsum(1)}


class LeaksThroughTheConvolution(ChunkedScan):
    def convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor, documents: Any, past: Any
    ) -> Tensor:
        padded = F.pad(x.mT, (weight.shape[1] - 1, 0))
        convolved = F.conv1d(padded, weight.unsqueeze(1), bias, groups=len(weight))
        return F.silu(convolved).mT


class ForgetsInTheBackward(ChunkedScan):
    """Right outputs, but the gradient of a scan without documents."""

    def scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return self._half_right(super().scan, tensors, options)

    def selective_scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return self._half_right(super().selective_scan, tensors, options)

    def _half_right(self, scan: Any, tensors: Any, options: Any) -> tuple[Tensor, Tensor]:
        right, state = scan(*tensors, **options)
        wrong, _ = scan(*tensors, **options | {"seq_idx": None})
        return wrong + (right - wrong).detach(), state


class GivesNothing(ChunkedScan):
    def scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        y, state = super().scan(*tensors, **options)
        return y * torch.nan, state


class Breaks(ChunkedScan):
    def scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        raise RuntimeError("no kernel image is available for execution on the device")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", [AutoScan, ReferenceScan])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_backends_that_keep_documents_apart_pass(
    config: MambaConfig, backend: Any, dtype: torch.dtype
) -> None:
    found = probe_isolation(MambaLM(config, backend()), CPU, dtype)

    # Well below what is allowed.
    assert max(found.output_error, found.gradient_error) < (1e-5 if dtype == DTYPES[0] else 3e-2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "backend",
    [ForgetsDocuments, LeaksAtTheEdges, LeaksThroughTheConvolution, ForgetsInTheBackward],
)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_leak_stops_the_run(config: MambaConfig, backend: Any, dtype: torch.dtype) -> None:
    with pytest.raises(ConfigError, match="backend=chunked does not keep the documents of a row"):
        probe_isolation(MambaLM(config, backend()), CPU, dtype)


def test_what_is_no_number_does_not_pass() -> None:
    with pytest.raises(ConfigError, match="by nan, gradients by nan"):
        probe_isolation(MambaLM(CONFIG, GivesNothing()), CPU, torch.float32)


def test_a_backend_that_fails_is_named_with_its_reason() -> None:
    with pytest.raises(ConfigError, match=r"fails on cpu in float32: no kernel image .* choose"):
        probe_isolation(MambaLM(CONFIG, Breaks()), CPU, torch.float32)


def test_model_and_random_state_are_left_alone() -> None:
    model = MambaLM(CONFIG, ChunkedScan())
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    probe_isolation(model, CPU, torch.float32)

    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert parameter.requires_grad


def test_the_report_says_what_computes_and_why() -> None:
    found = probe_isolation(MambaLM(CONFIG, AutoScan(chunk_size=16)), CPU, torch.bfloat16)

    assert found.backend == "chunked"
    assert found.reason == "the fused kernels need an NVIDIA GPU, not cpu"
    assert (found.device, found.dtype) == ("cpu", "bfloat16")
    assert found.document_tokens == [16, 11, 1, 2, 21]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("chunked", [True, False])
def test_documents_are_kept_apart_on_the_gpu(chunked: bool, dtype: torch.dtype) -> None:
    config = Mamba2Config(d_model=768, n_layer=1, vocab_size=16)
    model = MambaLM(config, ChunkedScan() if chunked else AutoScan())
    probe_isolation(model, torch.device("cuda"), dtype)
