from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM


@pytest.fixture
def tiny_config() -> Mamba2Config:
    """Two layers, four heads in two groups, 37 ids in 48 rows."""
    return Mamba2Config(
        d_model=16, n_layer=2, vocab_size=37, d_state=8, headdim=8, ngroups=2, expand=2
    )


@pytest.fixture
def tiny_model(tiny_config: Mamba2Config) -> MambaLM:
    """Float64 model with weights large enough that every path matters to the logits."""
    torch.manual_seed(0)
    model = MambaLM(tiny_config, ChunkedScan(chunk_size=8)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture
def random_ids() -> Callable[..., torch.Tensor]:
    def draw(*shape: int, vocab_size: int = 37) -> torch.Tensor:
        return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(1))

    return draw


@pytest.fixture
def transformers_twin() -> Callable[[MambaLM], Any]:
    """Return a function that builds transformers' Mamba2 with the weights of ours."""
    return _transformers_twin


def _transformers_twin(model: MambaLM) -> Any:
    """Return transformers' Mamba2 with the weights of ours."""
    transformers = pytest.importorskip("transformers")
    ours = model.config
    assert isinstance(ours, Mamba2Config)
    config = transformers.Mamba2Config(
        hidden_size=ours.d_model,
        num_hidden_layers=ours.n_layer,
        vocab_size=ours.padded_vocab_size,
        state_size=ours.d_state,
        head_dim=ours.headdim,
        num_heads=ours.nheads,
        n_groups=ours.ngroups,
        conv_kernel=ours.d_conv,
        expand=ours.expand,
        layer_norm_epsilon=ours.norm_eps,
        chunk_size=8,
        tie_word_embeddings=True,
    )
    twin = transformers.Mamba2ForCausalLM(config)
    weights = {
        name.replace("backbone.embedding.", "backbone.embeddings."): tensor
        for name, tensor in model.state_dict().items()
    }
    twin.load_state_dict(weights | {"lm_head.weight": model.head_weight})
    twin.tie_weights()
    return twin.eval()


_NEEDS_DATA = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Recording(TorchDispatchMode):
    """Records the operations of a work and repeats them on the same tensors, as a CUDA graph does.

    What Python does in between (numbers that it counts up, tensors that it puts in the place of
    others) is not repeated. A number, or a shape, that must be read out of a tensor is an error.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _NEEDS_DATA & set(func.tags):
            raise RuntimeError(f"the host waits for the result of {func}")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, before in self.calls:
            returns = func._schema.returns
            if any(each.alias_info and not each.alias_info.is_write for each in returns):
                continue  # a view shows what its base holds
            result = func(*args, **kwargs)
            if any(each.alias_info for each in returns):
                continue  # written in place
            for mine, other in zip(*map(pytree.tree_leaves, (before, result)), strict=True):
                if isinstance(mine, torch.Tensor):
                    mine.copy_(other)


class RecordingCapture:
    """Stands in for `CudaCapture` on a CPU."""

    def __init__(self) -> None:
        self.recordings: list[Recording] = []

    def __call__(self, work: Callable[[], None], device: torch.device) -> Callable[[], None]:
        work()  # as a warm-up does
        with Recording() as recording:
            work()
        self.recordings.append(recording)
        return recording.replay


@pytest.fixture
def recording_capture() -> RecordingCapture:
    return RecordingCapture()
