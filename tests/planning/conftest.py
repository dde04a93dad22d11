"""A training step whose memory is counted tensor by tensor, and settings to plan."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from biomamba.data.mixture import TokenBudget
from biomamba.model import conv, norm, selective_scan
from biomamba.model import loss as cross_entropy
from biomamba.model.backends import chunked as chunk_scan
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config, MambaConfig
from biomamba.model.language_model import MambaLM
from biomamba.model.loss import linear_cross_entropy
from biomamba.planning.memory import Layout, MicroBatch, Parameters, RunSettings

TINY = Mamba2Config(d_model=64, n_layer=2, vocab_size=128, headdim=16, d_state=16)


class Bytes(NamedTuple):
    """What a step was seen to hold, without weights and their gradients."""

    saved: int  # by autograd between forward and backward
    peak: int


Measure = Callable[..., Bytes]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that come to life, and the most there were at once."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: dict[int, Any] = dict.fromkeys(known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen[key] = weakref.ref(storage, lambda _: self._drop(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        self._seen.pop(key, None)
        self.now -= size


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernels work in one piece, as they do on a GPU."""
    for module in (chunk_scan, norm, conv):
        monkeypatch.setattr(module, "_TILE_ELEMENTS", 2**40)
    monkeypatch.setattr(selective_scan, "_TILE_ELEMENTS", selective_scan._TILE_ELEMENTS_ELSEWHERE)
    monkeypatch.setattr(cross_entropy, "_PIECE_BYTES", {})


@pytest.fixture
def measure(as_on_a_gpu: None) -> Measure:
    """Return measure(config, batch, checkpointing=...), the memory of a forward and backward."""
    return measured


def measured(config: MambaConfig, batch: MicroBatch, *, checkpointing: bool = False) -> Bytes:
    model = MambaLM(config, ChunkedScan(batch.chunk_size))
    if checkpointing:
        model.checkpoint_activations()
    ids = torch.randint(0, config.vocab_size, (batch.rows, batch.length))
    number = torch.arange(batch.length, dtype=torch.int32) // (batch.length // 2 + 1)
    documents = number.expand(batch.rows, -1).contiguous()
    known = _known(model, ids)
    saved: dict[int, weakref.ref[Any]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = weakref.ref(storage)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    is_mixed = batch.dtype != torch.float32
    live = LiveBytes(known)
    with live, torch.autocast("cpu", dtype=batch.dtype, enabled=is_mixed), hooks:
        hidden, _ = model.hidden(ids, documents, keeps_states=False)
        loss = linear_cross_entropy(hidden.flatten(0, 1), model.head_weight, ids.flatten())
        del hidden
        storages = [storage for found in saved.values() if (storage := found()) is not None]
        total = sum(storage.nbytes() for storage in storages)
        del storages
        saved.clear()
        torch.autograd.backward(loss)
    return Bytes(total, live.peak)


def _known(model: nn.Module, ids: Tensor) -> set[int]:
    """Return the storages of weights, gradients and ids, which are counted elsewhere."""
    tensors = [ids]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
        tensors += [parameter, parameter.grad]
    return {tensor.untyped_storage()._cdata for tensor in tensors}


@pytest.fixture
def settings() -> Callable[..., RunSettings]:
    """Return settings(**changes) of a small run: 4 steps of 16 rows of 64 positions."""

    def _settings(**changes: Any) -> RunSettings:
        model = changes.pop("model", TINY)
        given: dict[str, Any] = {
            "model": model,
            "parameters": Parameters.described(model, changes.pop("adaptation", None)),
            "budget": TokenBudget(4_096, 1_024, 64, changes.pop("rows", 2)),
            "layout": Layout(changes.pop("strategy", "single")),
            "precision": "32-true",
            "backend": "chunked",
        }
        return RunSettings(**given | changes)

    return _settings
