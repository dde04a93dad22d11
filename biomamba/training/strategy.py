"""How the processes of a run share the work: copies of the model (DDP) or shards of it (FSDP2).

Both give the numbers of one process up to the order of sums, and all write the same checkpoints:
one file with whole tensors, from rank zero, so that a run continues under another strategy or on
another number of processes. A file per process would be written faster, but could only be read
after being put together; for 2.7e9 parameters the whole file is 32 GB of main memory on rank zero.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from biomamba.model.language_model import MambaLM
from biomamba.model.sharding import gather, load_whole, scatter, shard
from biomamba.runtime.numbers import check_number

_MAX_TIMEOUT_SECONDS = 365 * 24 * 3600


def ddp(timeout_seconds: float = 1800.0) -> DDPStrategy:
    """Build the strategy with a copy of model and optimizer on every process.

    A process that waits timeout_seconds for another one gives up with an error.
    """
    return DDPStrategy(timeout=_timeout(timeout_seconds))


def fsdp(
    timeout_seconds: float = 1800.0, *, sync_every_micro_batch: bool = False
) -> "ShardedStrategy":
    """Build the strategy with a shard of model, gradients and optimizer on every process.

    Gradients are summed over the processes once per step, for which each process holds whole
    gradients (4 bytes per parameter) until then; sync_every_micro_batch sums after every
    micro-batch instead and needs room for a shard only.
    """
    return ShardedStrategy(_timeout(timeout_seconds), sync_every_micro_batch)


def _timeout(seconds: float) -> timedelta:
    check_number("timeout_seconds", seconds, above=0, at_most=_MAX_TIMEOUT_SECONDS)
    return timedelta(seconds=seconds)


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes, with whole checkpoints.

    Deviation: Lightning loads the optimizer of an unsharded run wrongly if it has several groups of
    parameters (it numbers them in the order of the model, torch in that of the groups), sums the
    gradients after every micro-batch, and by default shards over nodes only.
    """

    def __init__(self, timeout: timedelta, sync_every_micro_batch: bool = False) -> None:
        super().__init__(
            data_parallel_size=1,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timeout,
        )
        self._sync_every_micro_batch = sync_every_micro_batch

    def setup_environment(self) -> None:
        """Connect the processes and make a mesh of all of them."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, model: MambaLM, sum_dtype: torch.dtype) -> None:
        """Shard the model over all processes; called by configure_model.

        Gradients of micro-batches and processes are added in sum_dtype.

        A mesh of one dimension is the group of all processes itself. Lightning's has two, whose
        groups are new ones that wait half an hour whatever the timeout is.
        """
        shard(model, init_device_mesh(self.root_device.type, (self.world_size,)), sum_dtype)

    @contextmanager
    def block_backward_sync(self) -> Generator[None]:
        """Add up gradients of this process only."""
        units = [m for m in self._module().modules() if isinstance(m, FSDPModule)]
        is_blocked = not self._sync_every_micro_batch
        for unit in units:
            unit.set_requires_gradient_sync(not is_blocked, recurse=False)
        try:
            yield
        finally:
            for unit in units:
                unit.set_requires_gradient_sync(True, recurse=False)

    def validation_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Validate, and give up the gathered head: no backward pass does it here.

        Else the shards could change behind it and the next step would use the old weights.
        """
        output = super().validation_step(*args, **kwargs)
        for unit in self._module().modules():
            if isinstance(unit, FSDPModule):
                unit.reshard()
        return output

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning calls load_optimizer_state_dict."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather the state of the module on rank zero; all ranks must call it."""
        return gather(dict(self._module().state_dict()))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gather the state of an optimizer on rank zero, numbered as torch does."""
        inner: Optimizer = getattr(optimizer, "optimizer", optimizer)
        return gather(inner.state_dict())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Read a checkpoint of any strategy; every rank reads the file."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take the own shards of the weights."""
        load_whole(self._module(), checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the own shards of the states of the optimizers."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(_shards_of(state, optimizer))

    def _module(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module


def _shards_of(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Cut the states of parameters as the parameters are; both are in the order of the groups."""
    saved = [number for group in state["param_groups"] for number in group["params"]]
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = dict(zip(saved, own, strict=True))
    shards = {
        number: {name: scatter(value, places[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": shards}
