"""Prove that documents of one row do not reach each other, before anything is trained on them.

A mixer of the model, with its real sizes, computes a packed row and its documents alone, on the
device and in the dtype of the run, forward and backward. Its decays are slowed and the skip path is
cut, so that whatever crosses a boundary decides the result instead of drowning in it.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from biomamba.model.backends.auto import choice_of
from biomamba.model.config import Mamba1Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import ConfigError

# Largest difference of a position, relative to its size: five times and more what other roundings
# were seen to make. A leak of any kind makes 0.3 to 10 (docs/backends.md).
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-2}
_HALF_TOLERANCE = 1e-1
# softplus of it is 0.05: with A = -1 a state remembers about twenty positions.
_SLOW_DT_BIAS = -2.97


@dataclass(frozen=True)
class Isolation:
    """What computes a run and how far packed documents are from documents alone."""

    backend: str
    reason: str
    device: str
    dtype: str
    document_tokens: list[int]
    output_error: float
    gradient_error: float


def probe_isolation(model: MambaLM, device: torch.device, dtype: torch.dtype) -> Isolation:
    """Compare a packed row with its documents alone; no random state is used.

    Args:
        model: Not yet sharded; it is left as it is.
        device: Where the run computes.
        dtype: Of its products: float32, or what autocast uses.

    Raises:
        ConfigError: The backend fails on this device, or lets documents reach each other.
    """
    own = model.backbone.blocks()[0].mixer
    is_selective = isinstance(model.config, Mamba1Config)
    choice = choice_of(own.backend, device, dtype, is_selective=is_selective)
    chunk_size = getattr(choice.backend, "chunk_size", 64)
    # A boundary on the edge of a chunk and others off it, documents shorter than the convolution,
    # and one that continues into another chunk.
    lengths = [chunk_size, chunk_size // 2 + 3, 1, 2, chunk_size + 5]
    mixer = _remembering(own).to(device)
    try:
        errors = _errors(mixer, model.config.d_model, lengths, dtype)
    except RuntimeError as error:
        raise ConfigError(
            f"backend={choice.backend.name} fails on {device} in {_name(dtype)}: {error}; choose "
            "backend=chunked"
        ) from error
    found = Isolation(
        backend=choice.backend.name,
        reason=choice.reason,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        dtype=_name(dtype),
        document_tokens=lengths,
        output_error=errors[0],
        gradient_error=errors[1],
    )
    _check(found, _TOLERANCES.get(dtype, _HALF_TOLERANCE))
    return found


def _check(found: Isolation, tolerance: float) -> None:
    # Written so that nan does not pass.
    if found.output_error <= tolerance and found.gradient_error <= tolerance:
        return
    raise ConfigError(
        f"backend={found.backend} does not keep the documents of a row apart on {found.device} in "
        f"{found.dtype}: outputs differ from those of the documents alone by "
        f"{found.output_error:.2g}, gradients by {found.gradient_error:.2g} of their size "
        f"(allowed: {tolerance:g}); choose backend=chunked, or other versions of the kernels"
    )


def _remembering(mixer: nn.Module) -> nn.Module:
    """Copy a mixer, with the backend it has, and make its states last and decide the output."""
    backend = getattr(mixer, "backend", None)
    mixer = copy.deepcopy(mixer, {id(backend): backend})
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            if name in {"A_log", "D"}:
                parameter.zero_()
            elif name in {"dt_bias", "dt_proj.bias"}:
                parameter.fill_(_SLOW_DT_BIAS)
    return mixer.requires_grad_(False)


def _errors(
    mixer: nn.Module, width: int, lengths: list[int], dtype: torch.dtype
) -> tuple[float, float]:
    """Return the largest differences of outputs and of gradients; see `_error`."""
    weight = next(mixer.parameters())
    shape = (1, sum(lengths), width)
    generator = torch.Generator().manual_seed(0)
    u, weights = (torch.randn(shape, generator=generator).to(weight.device) for _ in range(2))
    numbers = torch.arange(len(lengths), dtype=torch.int32)
    documents = numbers.repeat_interleave(torch.tensor(lengths)).unsqueeze(0).to(weight.device)

    packed = _computed(mixer, u, weights, documents, dtype)
    parts = zip(torch.split(u, lengths, dim=1), torch.split(weights, lengths, dim=1), strict=True)
    alone = [_computed(mixer, part, own, None, dtype) for part, own in parts]
    expected = [torch.cat(tensors, dim=1) for tensors in zip(*alone, strict=True)]
    output, gradient = (_error(a, e) for a, e in zip(packed, expected, strict=True))
    return output, gradient


def _error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference of a position, relative to its own size.

    After a boundary a leak is large beside what little the document has there. A size that is
    small by chance, because its terms cancel, counts as a quarter of the mean.
    """
    sizes = expected.norm(dim=-1)
    return float(((actual - expected).norm(dim=-1) / sizes.clamp(min=sizes.mean() / 4)).max())


def _computed(
    mixer: nn.Module, u: Tensor, weights: Tensor, documents: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the output, and the gradient of its weighted sum with respect to the input."""
    parameter = next(mixer.parameters())
    u = u.detach().to(parameter.dtype).requires_grad_()
    is_half = dtype in {torch.bfloat16, torch.float16}
    with torch.enable_grad(), torch.autocast(u.device.type, dtype=dtype, enabled=is_half):
        output, _ = mixer(u, documents)
        (gradient,) = torch.autograd.grad((output.float() * weights).sum(), u)
    return output.detach().float(), gradient.float()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
