"""Cutting and putting together; real processes: tests/training/test_strategy.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed import FileStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config, Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.model.sharding import gather, load_whole, scatter, shard


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A mesh of this one process."""
    store = FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


CONFIGS = {
    "mamba2": Mamba2Config(d_model=16, n_layer=2, vocab_size=32, d_state=4, headdim=8),
    "mamba1": Mamba1Config(d_model=16, n_layer=2, vocab_size=32, d_state=4),
    "static": Mamba1Config(
        d_model=16, n_layer=2, vocab_size=32, d_state=4, static=["dt", "B", "C"]
    ),
}  # fmt: skip
of_every_kind = pytest.mark.parametrize("kind", CONFIGS)


def make_model(kind: str = "mamba2") -> MambaLM:
    return MambaLM(CONFIGS[kind], ChunkedScan(chunk_size=4))


@of_every_kind
def test_blocks_and_model_are_units(mesh: DeviceMesh, kind: str) -> None:
    model = make_model(kind)
    shard(model, mesh)
    units = {name for name, module in model.named_modules() if isinstance(module, FSDPModule)}
    assert units == {"", "backbone.layers.0", "backbone.layers.1"}
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())


def test_a_sharded_model_is_left_alone(mesh: DeviceMesh) -> None:
    model = make_model()
    shard(model, mesh)
    before = list(model.parameters())
    shard(model, mesh)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


@of_every_kind
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor")
def test_outputs_and_gradients_are_those_of_the_plain_model(mesh: DeviceMesh, kind: str) -> None:
    model = make_model(kind)
    input_ids = torch.arange(12).view(2, 6)
    expected = model(input_ids)
    gradients = torch.autograd.grad(expected.logsumexp(-1).sum(), list(model.parameters()))
    shard(model, mesh)
    found = model.logits(model.hidden(input_ids)[0])
    torch.testing.assert_close(found, expected)
    found.logsumexp(-1).sum().backward()
    for (name, parameter), wanted in zip(model.named_parameters(), gradients, strict=True):
        assert isinstance(parameter.grad, DTensor)
        torch.testing.assert_close(parameter.grad.full_tensor(), wanted, msg=name)


@of_every_kind
def test_a_sharded_model_loads_whole_tensors(mesh: DeviceMesh, kind: str) -> None:
    source, target = make_model(kind), make_model(kind)
    shard(target, mesh)
    load_whole(target, source.state_dict())
    torch.testing.assert_close(gather(target.state_dict()), source.state_dict(), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_whole(target, {**source.state_dict(), "other": torch.zeros(1)})


def test_gathering_keeps_everything_else(mesh: DeviceMesh) -> None:
    whole = torch.arange(6.0).view(3, 2)
    sharded = distribute_tensor(whole, mesh, [Shard(0)])
    tree = {"state": {0: {"exp_avg": sharded}}, "betas": (0.9, 0.95), "names": ["a", None]}
    found = gather(tree)
    assert torch.equal(found["state"][0]["exp_avg"], whole)  # type: ignore[index]
    assert not isinstance(found["state"][0]["exp_avg"], DTensor)  # type: ignore[index]
    assert (found["betas"], found["names"]) == ((0.9, 0.95), ["a", None])


def test_what_is_not_sharded_is_not_cut(mesh: DeviceMesh) -> None:
    whole = torch.arange(6.0).view(3, 2)
    sharded = distribute_tensor(whole, mesh, [Shard(0)])
    step = torch.tensor(3.0)
    assert scatter(whole, torch.zeros(3, 2)) is whole
    assert scatter(step, sharded) is step
    with pytest.raises(ValueError, match="can only cut rows"):
        scatter(whole, distribute_tensor(whole, mesh, [Replicate()]))


def test_a_cut_is_a_copy(mesh: DeviceMesh) -> None:
    whole = torch.arange(6.0).view(3, 2)
    cut = scatter(whole, distribute_tensor(torch.zeros(3, 2), mesh, [Shard(0)]))
    whole.zero_()
    assert isinstance(cut, DTensor)
    assert torch.equal(cut.full_tensor(), torch.arange(6.0).view(3, 2))


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_rows_are_cut_as_torch_cuts_them(
    mesh: DeviceMesh, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four processes, played one after the other; some have fewer rows or none."""
    whole = torch.arange(2.0 * rows).view(rows, 2)
    like = distribute_tensor(whole, mesh, [Shard(0)])
    monkeypatch.setattr(DeviceMesh, "size", lambda self, dim=None: 4)
    found = []
    for rank in range(4):
        monkeypatch.setattr(DeviceMesh, "get_local_rank", lambda self, dim=None, r=rank: r)
        cut = scatter(whole, like)
        assert isinstance(cut, DTensor)
        found.append(cut._local_tensor)
    sizes = [Shard.local_shard_size_and_offset(rows, 4, rank)[0] for rank in range(4)]
    assert [len(part) for part in found] == sizes
    assert torch.equal(torch.cat(found), whole)
