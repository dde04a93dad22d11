"""Whole training steps to be measured: ours, those of transformers' Mamba2, a Transformer's."""

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.model.loss import linear_cross_entropy
from biomamba.training.optimizer import AdamW

VOCABULARY = 50_288
_IDS_WITHOUT_HEAD = 16
Loss = Callable[[], Tensor]


@dataclass(frozen=True)
class Size:
    """The shape of a model; without a head its blocks alone are trained, on some loss."""

    d_model: int
    n_layer: int
    has_head: bool = True

    def config(self) -> Mamba2Config:
        """Return our configuration of it."""
        vocab_size = VOCABULARY if self.has_head else _IDS_WITHOUT_HEAD
        return Mamba2Config(d_model=self.d_model, n_layer=self.n_layer, vocab_size=vocab_size)

    @property
    def operations_per_token(self) -> float:
        """Useful operations of a training step: 6 per parameter that takes part in a product."""
        config = self.config()
        embedding = 0 if self.has_head else config.padded_vocab_size * config.d_model
        return 6.0 * (config.num_parameters() - embedding)


SIZES = {
    "layer": Size(768, 1, has_head=False),
    "two layers": Size(768, 2, has_head=False),
    "25m": Size(320, 12),
    "130m": Size(768, 24),
}


class Training:
    """A model in training over one row of `length` tokens."""

    def __init__(self, optimizer: torch.optim.Optimizer, loss: Loss, length: int) -> None:
        self._optimizer = optimizer
        self._loss = loss
        self._length = length

    def step(self, dtype: torch.dtype) -> float:
        """Take a step with products in a dtype and return the tokens it has trained on."""
        with autocast(dtype):
            value = self._loss()
        value.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return self._length


def autocast(dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return the context that the products of a step run in."""
    return nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype)


def ours(size: Size, length: int, *, compile_norms: bool = False) -> Training:
    """Return our model in training, as the trainer of this package does it."""
    torch.manual_seed(0)
    model = MambaLM(size.config(), ChunkedScan())
    if compile_norms:
        model.compile_norms()
    ids, targets = _row(size, length)

    def loss() -> Tensor:
        if not size.has_head:
            residual = model.backbone.embedding(ids)
            for block in model.backbone.blocks():
                residual, _ = block(residual)
            return residual.square().mean()
        hidden, _ = model.hidden(ids)
        return linear_cross_entropy(hidden[0], model.head_weight, targets) / length

    return Training(AdamW(lr=1e-4, weight_decay=0.1).build(model), loss, length)


def others(size: Size, length: int) -> Training:
    """Return the same of transformers in plain PyTorch, with the AdamW that torch gives."""
    torch.manual_seed(0)
    own = size.config()
    config = transformers.Mamba2Config(
        num_heads=own.nheads,
        head_dim=own.headdim,
        vocab_size=own.padded_vocab_size,
        hidden_size=own.d_model,
        state_size=own.d_state,
        num_hidden_layers=own.n_layer,
        expand=own.expand,
        conv_kernel=own.d_conv,
        n_groups=own.ngroups,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = transformers.Mamba2ForCausalLM(config).train()
    ids, targets = _row(size, length)

    def loss() -> Tensor:
        if not size.has_head:
            residual = model.backbone.embeddings(ids)
            for block in model.backbone.layers:
                residual = block(residual)
            return residual.square().mean()
        return F.cross_entropy(model(ids).logits[0].float(), targets)

    return Training(torch.optim.AdamW(model.parameters(), lr=1e-4), loss, length)


def transformer(size: Size, length: int) -> Training:
    """Return the same of GPT-NeoX: one block of attention and MLP for two blocks of Mamba2."""
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(
        vocab_size=_IDS_WITHOUT_HEAD,
        hidden_size=size.d_model,
        num_hidden_layers=size.n_layer // 2,
        num_attention_heads=size.d_model // 64,
        intermediate_size=4 * size.d_model,
        max_position_embeddings=length,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = transformers.GPTNeoXModel(config).train()
    ids, _ = _row(size, length)

    def loss() -> Tensor:
        hidden: Tensor = model(ids).last_hidden_state
        return hidden.square().mean()

    return Training(torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), loss, length)


def product(dtype: torch.dtype, size: int = 2_048, repeats: int = 4) -> float:
    """Multiply square matrices, as fast as they come, and return the operations."""
    a, b = torch.randn(2, size, size).to(dtype)
    for _ in range(repeats):
        F.linear(a, b)
    return 2.0 * size**3 * repeats


def peak_bytes(work: Callable[[], object]) -> int:
    """Return by how much the memory of the process grew at the most during work."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free does not count
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the highest mark
    work()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def _row(size: Size, length: int) -> tuple[Tensor, Tensor]:
    vocab_size = size.config().vocab_size
    ids, targets = torch.randint(vocab_size, (2, length)).unbind()
    return ids[None], targets
