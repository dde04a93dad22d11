"""Run the Triton kernels of mamba-ssm (and others) on CPU tensors, in Triton's interpreter.

Call `interpret()` before anything imports triton. What it stands in for:
- CUDA devices, which the kernels' callers ask for the context and the number of multiprocessors;
- timing of the alternatives of autotuned kernels: each keeps its smallest blocks;
- causal-conv1d, which is compiled and has no interpreter: `StandInConvolution`, in plain PyTorch,
  with the signatures of causal-conv1d 1.7.0.
The arithmetic of the Triton kernels is the real one, in NumPy.
"""

# ruff: noqa: PT018 (signatures of causal-conv1d, and its checks)

import contextlib
import functools
import math
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@functools.cache
def interpret() -> None:
    """Prepare this process, once; afterwards `FusedScan()` works on CPU tensors."""
    if "triton" in sys.modules:
        raise RuntimeError("triton was imported before interpret()")
    os.environ["TRITON_INTERPRET"] = "1"
    torch.cuda.device = lambda *_: contextlib.nullcontext()  # type: ignore[assignment,misc]
    torch.cuda.get_device_properties = (  # type: ignore[assignment]
        lambda *_: SimpleNamespace(multi_processor_count=1)
    )
    _keep_one_alternative()
    for name, content in (
        ("causal_conv1d", {"causal_conv1d_fn": StandInConvolution.convolve}),
        (
            "causal_conv1d.cpp_functions",
            {
                "causal_conv1d_fwd_function": StandInConvolution.forward,
                "causal_conv1d_bwd_function": StandInConvolution.backward,
                "causal_conv1d_update_function": None,
            },
        ),
    ):
        sys.modules[name] = module = ModuleType(name)
        vars(module).update(content)


def _keep_one_alternative() -> None:
    from triton.runtime.autotuner import Autotuner

    original = Autotuner.__init__

    def size(config: Any) -> int:
        return math.prod(v for key, v in config.kwargs.items() if key.startswith("BLOCK_SIZE"))

    def keep_smallest(
        self: Any, fn: Any, arg_names: Any, configs: Any, *args: Any, **kwargs: Any
    ) -> None:
        original(self, fn, arg_names, [min(configs, key=size)], *args, **kwargs)

    Autotuner.__init__ = keep_smallest


class StandInConvolution:
    """causal-conv1d's functions on tensors (batch, channels, length), by autograd."""

    @staticmethod
    def convolve(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        seq_idx: Tensor | None = None,
        initial_states: Tensor | None = None,
        return_final_states: bool = False,
        final_states_out: Tensor | None = None,
        activation: str | None = None,
    ) -> Tensor:
        """Stand in for `causal_conv1d_fn`, with the checks of its C++ code."""
        assert not return_final_states and final_states_out is None
        assert activation in {None, "silu", "swish"}
        _check_layout(x, weight, seq_idx, initial_states)
        halo = weight.shape[1] - 1
        if initial_states is None:
            padded = F.pad(x, (halo, 0))
        else:
            padded = torch.cat([initial_states, x], dim=-1)
        windows = padded.unfold(-1, halo + 1, 1).to(weight.dtype)
        if seq_idx is not None:
            # Without initial states what precedes position 0 is of no document.
            before = seq_idx[:, :1].expand(-1, halo)
            before = before if initial_states is not None else torch.full_like(before, -1)
            numbers = torch.cat([before, seq_idx], dim=1).unfold(-1, halo + 1, 1)
            windows = windows * (numbers == seq_idx.unsqueeze(-1)).unsqueeze(1)
        y = (windows * weight.unsqueeze(1)).sum(-1)
        y = y if bias is None else y + bias.unsqueeze(-1)
        return (y if activation is None else F.silu(y)).to(x.dtype)

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        seq_idx: Tensor | None,
        initial_states: Tensor | None,
        final_states_out: Tensor | None,
        silu_activation: bool,
    ) -> Tensor:
        """Stand in for `causal_conv1d_fwd_function`."""
        activation = "silu" if silu_activation else None
        return StandInConvolution.convolve(
            x, weight, bias, seq_idx, initial_states, False, final_states_out, activation
        )

    @staticmethod
    def backward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        dout: Tensor,
        seq_idx: Tensor | None,
        initial_states: Tensor | None,
        dfinal_states: Tensor | None,
        dx: Tensor | None,
        return_dinitial_states: bool,
        silu_activation: bool,
    ) -> tuple[Tensor, ...]:
        """Stand in for `causal_conv1d_bwd_function`, which fills dx if it is given."""
        assert dfinal_states is None and not return_dinitial_states
        leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
        with torch.enable_grad():
            y = StandInConvolution.forward(*leaves, seq_idx, initial_states, None, silu_activation)
            gradients = torch.autograd.grad(y, leaves, dout)
        filled = gradients[0] if dx is None else dx.copy_(gradients[0])
        return filled, gradients[1], gradients[2], None  # type: ignore[return-value]


def _check_layout(
    x: Tensor, weight: Tensor, seq_idx: Tensor | None, initial_states: Tensor | None
) -> None:
    """Refuse what csrc/causal_conv1d.cpp refuses."""
    batch, channels, length = x.shape
    assert weight.shape[0] == channels and 2 <= weight.shape[1] <= 4
    assert x.stride(2) == 1 or x.stride(1) == 1
    channels_last = x.stride(1) == 1 and x.stride(2) > 1
    if channels_last:
        assert channels % 8 == 0 and x.stride(2) % 8 == 0 and x.stride(0) % 8 == 0
    if seq_idx is not None:
        assert channels_last and seq_idx.dtype == torch.int32 and seq_idx.is_contiguous()
        assert seq_idx.shape == (batch, length)
    if initial_states is not None:
        assert channels_last and initial_states.dtype == x.dtype
        assert initial_states.shape == (batch, channels, weight.shape[1] - 1)
        assert initial_states.stride(1) == 1
