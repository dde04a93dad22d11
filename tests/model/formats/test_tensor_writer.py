import json
from pathlib import Path
from weakref import ReferenceType, ref

import pytest
import torch
from torch import Tensor

from biomamba.model.config import Mamba2Config
from biomamba.model.formats import tensors as tensor_writer
from biomamba.model.formats.layouts import STATE_SPACES_MAMBA2, TRANSFORMERS_MAMBA2, Layout
from biomamba.model.formats.tensors import (
    Container,
    Weights,
    WeightsFormat,
    find_weights,
    own_tensors,
    read_tensors,
    write_weights,
)
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError

EMBEDDING = "backbone.embedding.weight"


@pytest.fixture
def weights(tiny_model: MambaLM, tiny_config: Mamba2Config) -> Weights:
    tensors = {name: t.detach().float() for name, t in tiny_model.state_dict().items()}
    return Weights(tensors, tiny_config, Path("x"))


def read(folder: Path, layout: Layout, config: Mamba2Config) -> Weights:
    files = find_weights(folder)
    assert files is not None
    return Weights(own_tensors(files.read(), layout, config, folder), config, folder)


@pytest.mark.parametrize("layout", [STATE_SPACES_MAMBA2, TRANSFORMERS_MAMBA2])
@pytest.mark.parametrize("container", ["safetensors", "bin"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 4096, 1])
def test_round_trip_is_bit_for_bit(
    tmp_path: Path,
    weights: Weights,
    tiny_config: Mamba2Config,
    layout: Layout,
    container: Container,
    max_shard_bytes: int,
) -> None:
    form = WeightsFormat(layout=layout, container=container, max_shard_bytes=max_shard_bytes)
    rounded = write_weights(weights, tiny_config, tmp_path, form)
    found = read(tmp_path, layout, tiny_config)

    assert rounded == {}
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_files_keep_to_their_limit(
    tmp_path: Path, weights: Weights, tiny_config: Mamba2Config
) -> None:
    form = WeightsFormat(layout=TRANSFORMERS_MAMBA2, max_shard_bytes=4096)
    write_weights(weights, tiny_config, tmp_path, form)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = sorted(tmp_path.glob("*.safetensors"))

    # 4 bytes of each number; the embedding has 48 * 16 of them, in_proj 68 * 16.
    assert index["metadata"]["total_size"] == 4 * tiny_config.num_parameters()
    assert {path.name for path in shards} == set(index["weight_map"].values())
    for path in shards:
        tensors = read_tensors(path)
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= 4096 or len(tensors) == 1


def test_one_file_is_in_memory_at_a_time(
    tmp_path: Path,
    weights: Weights,
    tiny_config: Mamba2Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[ReferenceType[Tensor]] = []

    def save(tensors: dict[str, Tensor], path: Path) -> None:
        written.extend(ref(tensor) for tensor in tensors.values())

    def read(name: str) -> Tensor:
        assert not any(reference() is not None for reference in written)
        return whole[name]

    whole = dict(weights)
    monkeypatch.setattr(tensor_writer, "save_tensors", save)
    monkeypatch.setattr(Weights, "__getitem__", lambda _, name: read(name))
    form = WeightsFormat(layout=TRANSFORMERS_MAMBA2, max_shard_bytes=4096)
    write_weights(weights, tiny_config, tmp_path, form)

    assert len(written) == len(weights)


def test_only_files_of_torch_hold_the_tied_head_and_store_it_once(
    tmp_path: Path, weights: Weights, tiny_config: Mamba2Config
) -> None:
    sizes = {}
    for container in ("safetensors", "bin"):
        folder = tmp_path / container
        folder.mkdir()
        form = WeightsFormat(layout=STATE_SPACES_MAMBA2, container=container)  # type: ignore[arg-type]
        write_weights(weights, tiny_config, folder, form)
        (path,) = folder.iterdir()
        assert ("lm_head.weight" in read_tensors(path)) == (container == "bin")
        tensors = read_tensors(path)
        sizes[container] = len({tensor.data_ptr() for tensor in tensors.values()})

    assert sizes["bin"] == sizes["safetensors"]


def test_rounding_is_measured(tmp_path: Path, weights: Weights, tiny_config: Mamba2Config) -> None:
    form = WeightsFormat(layout=STATE_SPACES_MAMBA2, dtype=torch.bfloat16)
    rounded = write_weights(weights, tiny_config, tmp_path, form)

    # bfloat16 keeps 8 bits, so rounding to nearest changes a number by at most 2 ** -8 of it.
    assert rounded.keys() == set(weights)
    assert all(0 < change <= 2**-8 for change in rounded.values())


def test_widening_and_narrowing_again_changes_nothing(
    tmp_path: Path, weights: Weights, tiny_config: Mamba2Config
) -> None:
    half = Weights({n: t.bfloat16() for n, t in weights.items()}, tiny_config, Path("x"))
    for name, dtype, source in [("wide", torch.float32, half), ("again", torch.bfloat16, None)]:
        (tmp_path / name).mkdir()
        form = WeightsFormat(layout=STATE_SPACES_MAMBA2, dtype=dtype)
        given = source or read(tmp_path / "wide", STATE_SPACES_MAMBA2, tiny_config)
        assert write_weights(given, tiny_config, tmp_path / name, form) == {}
    found = read(tmp_path / "again", STATE_SPACES_MAMBA2, tiny_config)

    assert all(torch.equal(found[name], half[name]) for name in half)
    assert found[EMBEDDING].dtype == torch.bfloat16


def test_number_too_large_for_the_dtype_is_refused(
    tmp_path: Path, weights: Weights, tiny_config: Mamba2Config
) -> None:
    tensors: dict[str, Tensor] = dict(weights)
    tensors[EMBEDDING] = tensors[EMBEDDING].clone()
    tensors[EMBEDDING][0, 0] = 70_000.0  # float16 ends at 65,504
    form = WeightsFormat(layout=STATE_SPACES_MAMBA2, dtype=torch.float16)

    with pytest.raises(CheckpointError, match=f"{EMBEDDING} holds 7e.04, too large for .*float16"):
        write_weights(Weights(tensors, tiny_config, Path("x")), tiny_config, tmp_path, form)
