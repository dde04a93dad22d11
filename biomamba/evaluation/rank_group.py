"""Let the ranks of an evaluation wait for each other; without a launcher there is nobody to."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch import distributed

from biomamba.runtime.ranks import rank, world_size

# Longer than any evaluation: a rank with little to do waits for those with much. The launcher ends
# all ranks when one fails.
_TIMEOUT = timedelta(days=30)


@contextmanager
def rank_group() -> Iterator[Callable[[], None]]:
    """Join the ranks and yield what waits until all of them have come there."""
    if world_size() == 1:
        yield lambda: None
        return
    if "MASTER_ADDR" not in os.environ:  # torchrun sets it, srun does not
        slurm = SLURMEnvironment()
        os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
    distributed.init_process_group("gloo", rank=rank(), world_size=world_size(), timeout=_TIMEOUT)
    try:
        yield distributed.barrier
    finally:
        distributed.destroy_process_group()
