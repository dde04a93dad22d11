"""How the kernels are found and called, on are-ins with their signatures.

The real kernels: tests/test_fused_kernels.py (interpreted), and the tests marked gpu.
"""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.backends.fused import FusedScan, _load_kernels
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.config import Mamba2Config
from biomamba.model.mamba2 import Mamba2Mixer
from biomamba.model.ssd import ConvolvingBackend, MixerParts, MixingBackend
from biomamba.runtime.errors import ConfigError, MissingDependencyError

# The compiled parts of the installation are absent: running this code would fail.
INIT = "import selective_scan_cuda\nVERSION = 1\n"
SCANS = """
import torch
calls = []

def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None,
        initial_states=None, seq_idx=None, cu_seqlens=None, dt_softplus=False,
        dt_limit=(0.0, float("inf")), return_final_states=False, return_varlen_states=False):
    calls.append(dict(locals()))
    return x, initial_states

def mamba_split_conv1d_scan_combined(zxbcdt, *args, **kwargs):
    calls.append({"zxbcdt": zxbcdt, **kwargs})
    return zxbcdt, None
"""


@pytest.fixture(autouse=True)
def _fresh_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the are-ins after each test, and what was loaded of them."""
    _load_kernels.cache_clear()
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {"mamba_ssm", "causal_conv1d"}:
            del sys.modules[name]
    _load_kernels.cache_clear()


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An installed mamba_ssm whose package code cannot run; return its module of scans."""
    folder = tmp_path / "mamba_ssm" / "ops" / "triton"
    folder.mkdir(parents=True)
    (tmp_path / "mamba_ssm" / "__init__.py").write_text(INIT)
    (tmp_path / "mamba_ssm" / "ops" / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "ssd_combined.py").write_text(SCANS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    FusedScan()
    return sys.modules["mamba_ssm.ops.triton.ssd_combined"]


def scan_inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    x, dt = torch.randn(1, 6, 2, 8, dtype=dtype), torch.rand(1, 6, 2)
    B, C = torch.randn(2, 1, 6, 1, 8, dtype=dtype)
    return [x, dt, -torch.rand(2), B, C]


@pytest.mark.skipif("mamba_ssm" in sys.modules, reason="the kernels are installed")
def test_missing_kernels_are_named_with_the_way_to_install_them() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        FusedScan()

    assert "backend=fused needs the module mamba_ssm.ops.triton.ssd_combined" in str(caught.value)
    assert "constraints/cuda.txt" in str(caught.value)
    assert "backend=chunked" in str(caught.value)


def test_the_package_code_of_mamba_ssm_is_not_run(kernels: Any) -> None:
    assert "mamba_ssm" not in sys.modules  # a later import may run it
    assert kernels.__name__ in sys.modules


@pytest.mark.parametrize("chunk_size", [0, 8, 48, 512])
def test_other_chunk_sizes_are_refused(chunk_size: int, kernels: Any) -> None:
    with pytest.raises(ValueError, match=rf"chunk_size={chunk_size}: must be one of \[16, 32"):
        FusedScan(chunk_size)


def test_tensors_off_the_gpu_are_refused(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ConfigError, match="on cpu: choose backend=auto or backend=chunked"):
        FusedScan().scan(*scan_inputs())


def test_float64_is_refused(kernels: Any) -> None:
    with pytest.raises(ConfigError, match=r"no kernels for torch\.float64"):
        FusedScan().scan(*scan_inputs(torch.float64))


def test_mamba_1_is_refused(kernels: Any) -> None:
    with pytest.raises(ConfigError, match="no kernel for Mamba-1"):
        FusedScan().selective_scan(*scan_inputs(), seq_idx=None)


def test_the_scan_hands_everything_on(kernels: Any) -> None:
    state = torch.randn(1, 2, 8, 8)
    returning = torch.tensor([[3, 3, 5, 5, 3, 3]])
    x, dt, A, B, C = scan_inputs()
    FusedScan(32).scan(
        x.half(), dt, A, B, C.bfloat16(), seq_idx=returning, initial_state=state.half()
    )
    (call,) = kernels.calls

    assert (call["x"].dtype, call["B"].dtype, call["C"].dtype) == (torch.float16,) * 3
    assert {call[name].dtype for name in ("dt", "A", "initial_states")} == {torch.float32}
    assert call["chunk_size"] == 32
    assert call["seq_idx"].tolist() == [[0, 0, 1, 1, 2, 2]]  # from zero: that of the first state
    assert call["return_final_states"]
    assert call["D"] is call["z"] is call["dt_bias"] is None


def test_without_causal_conv1d_only_the_scan_is_fused(kernels: Any) -> None:
    backend = FusedScan()
    weight, bias = torch.ones(8, 4), torch.ones(8)

    assert not backend.has_convolution
    assert backend.convolve(torch.randn(1, 6, 8), weight, bias, None, None) is None
    config = Mamba2Config(d_model=8, n_layer=1, vocab_size=8, d_state=8, headdim=8)
    mixer = Mamba2Mixer(config, backend)
    mixer(torch.randn(1, 6, 8), torch.zeros(1, 6, dtype=torch.int32))
    assert len(kernels.calls) == 1
    assert "chunk_size" in kernels.calls[0]


class Convolution:
    """Stands in for causal_conv1d_fn and keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
        self.calls.append({"x": x, **options})
        return 2 * x


@pytest.fixture
def convolution(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> Convolution:
    stand_in = Convolution()
    module = type(sys)("causal_conv1d")
    monkeypatch.setattr(module, "causal_conv1d_fn", stand_in, raising=False)
    monkeypatch.setitem(sys.modules, "causal_conv1d", module)
    _load_kernels.cache_clear()
    return stand_in


def test_the_convolution_gets_channels_last_and_the_past(convolution: Convolution) -> None:
    x, past = torch.randn(2, 6, 21)[:, :, 1:17], torch.randn(2, 16, 3).mT
    documents = torch.tensor([[0, 0, 1], [0, 1, 1]], dtype=torch.int32).repeat_interleave(2, 1)
    y = FusedScan().convolve(x, torch.ones(16, 4), torch.ones(16), documents, past)
    (call,) = convolution.calls

    torch.testing.assert_close(y, 2 * x)
    assert call["x"].shape == (2, 16, 6)
    assert call["x"].stride() == (96, 1, 16)  # multiples of eight; 21 is none
    assert call["initial_states"].stride(1) == 1
    torch.testing.assert_close(call["initial_states"], past.mT)
    assert call["seq_idx"].is_contiguous()
    assert call["activation"] == "silu"


def test_a_single_position_gets_strides_in_eights(convolution: Convolution) -> None:
    x = torch.randn(1, 1, 21)[:, :, 1:17]  # contiguous to torch, whatever its strides
    FusedScan().convolve(x, torch.ones(16, 4), torch.ones(16), None, None)

    assert convolution.calls[0]["x"].stride() == (16, 1, 16)


def test_whole_mixers_of_other_widths_than_eights_are_left_alone(convolution: Convolution) -> None:
    parts = MixerParts(*[torch.ones(8, 4)] * 7, headdim=8, ngroups=1)  # type: ignore[arg-type]

    assert FusedScan().mix(torch.randn(1, 6, 20), parts, None) is None
    assert FusedScan().mix(torch.randn(1, 6, 24), parts, None) is not None


def test_a_view_with_good_strides_is_not_copied(convolution: Convolution) -> None:
    whole = torch.randn(2, 6, 40)
    FusedScan().convolve(whole[:, :, 8:24], torch.ones(16, 4), torch.ones(16), None, None)

    assert convolution.calls[0]["x"].data_ptr() == whole[:, :, 8:].data_ptr()


@pytest.mark.parametrize(
    ("channels", "taps", "dtype"),
    [(12, 4, torch.float32), (16, 5, torch.float32), (16, 4, torch.float64)],
)
def test_what_causal_conv1d_cannot_do_is_left_to_the_mixer(
    channels: int, taps: int, dtype: torch.dtype, convolution: Convolution
) -> None:
    x, weight = torch.randn(1, 6, channels, dtype=dtype), torch.ones(channels, taps)

    assert FusedScan().convolve(x, weight, torch.ones(channels), None, None) is None
    assert convolution.calls == []


def test_a_backend_can_be_copied_with_its_model(convolution: Convolution) -> None:
    backend = FusedScan(64)

    assert copy.deepcopy(backend).chunk_size == 64
    assert isinstance(backend, ConvolvingBackend)
    assert isinstance(backend, MixingBackend)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("starts", [(), (256,), (100, 101, 256, 511)], ids=str)
def test_kernels_on_the_gpu_agree_with_the_recurrence(
    starts: tuple[int, ...], dtype: torch.dtype
) -> None:
    # Products of float32 run as TF32 (2^-11), six roundings on the way as in the interpreted test.
    tolerance = 6 * {torch.bfloat16: 2**-8}.get(dtype, 2**-11)
    x, dt, A, B, C = (t.cuda() for t in _long_inputs())
    numbers = torch.zeros(2, 600, dtype=torch.int32)
    numbers[:, list(starts)] = 1
    seq_idx = numbers.cumsum(1, dtype=torch.int32).cuda()
    leaves = [t.to(d).requires_grad_() for t, d in zip((x, B, C), (dtype,) * 3, strict=True)]
    dt, A = dt.requires_grad_(), A.requires_grad_()

    def results(backend: Any, *inputs: Tensor) -> list[Tensor]:
        y, final = backend.scan(inputs[0], dt, A, *inputs[1:], seq_idx=seq_idx)
        loss = (y.float() * x).sum() + final.sum()
        return [y, final, *torch.autograd.grad(loss, [*inputs, dt, A])]

    wide = [t.detach().float().requires_grad_() for t in leaves]
    expected = results(ReferenceScan(), *wide)
    for backend in (FusedScan(), ChunkedScan()):
        for a, e in zip(results(backend, *leaves), expected, strict=True):
            assert (a.float() - e).abs().max() <= tolerance * e.abs().max()


def _long_inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 600, 8, 64, generator=generator)
    dt = torch.rand(2, 600, 8, generator=generator) * 0.1
    A = -torch.rand(8, generator=generator) * 15 - 1
    B, C = torch.randn(2, 2, 600, 1, 128, generator=generator)
    return [x, dt, A, B, C]
