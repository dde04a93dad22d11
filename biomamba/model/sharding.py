"""A model whose parameters are dealt out over processes (FSDP2), and its whole tensors.

Every block is a unit: its parameters are whole only while it computes. Parameters stay float32
when gathered, and so do the sums of their gradients: products run in half precision by autocast,
so A_log, D, dt_bias and the norms are never rounded. Deviation from the usual FSDP2 recipe:
MixedPrecisionPolicy(param_dtype=bfloat16) would gather these in half precision too; the price is
twice the bytes on the wire.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Shard

from biomamba.model.language_model import MambaLM

_Tree = TypeVar("_Tree")


def shard(model: MambaLM, mesh: DeviceMesh, sum_dtype: torch.dtype = torch.float32) -> None:
    """Deal the parameters out over a mesh of one dimension; a sharded model is left alone.

    sum_dtype is that of the sums of gradients over micro-batches and processes.

    Embedding (with the head tied to it) and last norm belong to the whole model, which stays
    gathered from its forward pass to its backward pass: the loss uses the head after the forward.
    """
    if isinstance(model, FSDPModule):
        return
    policy = MixedPrecisionPolicy(reduce_dtype=sum_dtype)
    for block in model.backbone.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    # Training enters the model by `hidden`, not by `forward`.
    register_fsdp_forward_method(model, "hidden")


def gather(tree: _Tree) -> _Tree:
    """Copy a tree with whole tensors in main memory in place of sharded ones.

    All processes must call it, with trees of the same order. One tensor at a time is whole on a
    device; on other processes than the first the result has empty tensors in their place.
    """
    return _mapped(tree)  # type: ignore[no-any-return]


def _mapped(value: Any) -> Any:
    if isinstance(value, DTensor):
        whole: Tensor = value.full_tensor().detach()
        return whole.cpu() if torch.distributed.get_rank() == 0 else torch.empty(0)
    if isinstance(value, Mapping):
        return {key: _mapped(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(child) for child in value)
    return value


def scatter(whole: Tensor, like: Tensor) -> Tensor:
    """Return the own part of a whole tensor, on the device of `like` and sharded as it is.

    Nothing is sent: every process cuts its part out of what it has read. A tensor that is not
    sharded, or has another shape, comes back as it was.
    """
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    mesh = like.device_mesh
    if mesh.ndim != 1 or like.placements != (Shard(0),):
        raise ValueError(f"can only cut rows over one dimension, not {like.placements} on {mesh}")
    parts = whole.chunk(mesh.size())
    rank = mesh.get_local_rank()
    # Fewer rows than processes: the last ones have none.
    part = parts[rank] if rank < len(parts) else whole[:0]
    local = part.to(like.device, like.dtype, copy=True)
    return DTensor.from_local(
        local, mesh, like.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def load_whole(module: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Load whole tensors into a module that has sharded parameters."""
    own = module.state_dict()
    parts = {n: scatter(t, own[n]) if n in own else t for n, t in state.items()}
    module.load_state_dict(parts, strict=strict)
