import hashlib
import json
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from biomamba.model.formats.tensors import find_weights, read_index, some
from biomamba.runtime.errors import CheckpointError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def store(folder: Path, name: str, tensors: Any) -> None:
    if name.endswith(".bin"):
        torch.save(tensors, folder / name)
    else:
        save_file(tensors, folder / name)


def split(folder: Path, suffix: str) -> Path:
    """Write a checkpoint in two files and return its index."""
    whole = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
    stem = whole.removesuffix(f".{suffix}")
    names = {key: f"{stem}-0000{i}-of-00002.{suffix}" for i, key in enumerate("ab", start=1)}
    for key, name in names.items():
        store(folder, name, {key: TENSORS[key]})
    index = folder / f"{whole}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


def resident_bytes() -> int:
    """Return the memory that this process has, files that are mapped included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def read(folder: Path) -> dict[str, Tensor]:
    files = find_weights(folder)
    assert files is not None
    return files.read()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_single_file_is_read_bit_for_bit(tmp_path: Path, name: str) -> None:
    store(tmp_path, name, TENSORS)
    found = read(tmp_path)

    assert found.keys() == TENSORS.keys()
    for key, tensor in found.items():
        assert tensor.dtype == TENSORS[key].dtype
        assert torch.equal(tensor, TENSORS[key])


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_split_files_are_read_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    split(tmp_path, suffix)
    found = read(tmp_path)

    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


def test_file_of_an_old_torch_is_read(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)

    assert torch.equal(read(tmp_path)["a"], TENSORS["a"])


def test_safetensors_go_before_torch_files(tmp_path: Path) -> None:
    store(tmp_path, "pytorch_model.bin", {"old": torch.zeros(1)})
    store(tmp_path, "model.safetensors", TENSORS)

    assert read(tmp_path).keys() == TENSORS.keys()


def test_folder_without_weights_has_none(tmp_path: Path) -> None:
    assert find_weights(tmp_path) is None


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells")
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_reading_takes_no_memory_until_a_tensor_is_used(tmp_path: Path, name: str) -> None:
    store(tmp_path, name, {"big": torch.zeros(2**26)})  # 256 MiB
    before = resident_bytes()
    found = read(tmp_path)

    assert found["big"].shape == (2**26,)
    assert resident_bytes() - before < 2**26


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a file of weights")

    with pytest.raises(CheckpointError, match=f"{name}: .*"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_cut_file_is_refused(tmp_path: Path, name: str) -> None:
    store(tmp_path, name, {"a": torch.randn(100)})
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-200])

    with pytest.raises(CheckpointError, match=f"{name}: damaged"):
        read(tmp_path)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    store(tmp_path, "pytorch_model.bin", {"x": Harmful()})
    with pytest.raises(CheckpointError, match="could run code"):
        read(tmp_path)

    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state": {"x": torch.zeros(1)}}, "holds a dictionary of state"),
        ([torch.zeros(1)], "holds a list"),
        ({"state_dict": {}, "optimizer_states": []}, "optimizer; .python -m biomamba.export"),
    ],
)
def test_torch_file_of_other_content_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    store(tmp_path, "pytorch_model.bin", content)

    with pytest.raises(CheckpointError, match=f"must hold a dictionary of tensors, .*{message}"):
        read(tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        "../model-00001-of-00002.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "C:model.safetensors",
        ".hidden.safetensors",
        "pytorch_model.bin",
        "secret.txt",
        7,
    ],
)
def test_index_that_names_a_file_elsewhere_is_refused(tmp_path: Path, place: Any) -> None:
    index = split(tmp_path, "safetensors")
    index.write_text(json.dumps({"weight_map": {"a": place}}))

    with pytest.raises(CheckpointError, match=r"index.json: (a is said to |weight_map.a is a)"):
        find_weights(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}'])
def test_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)

    with pytest.raises(CheckpointError, match=r"index.json: "):
        read_index(path)


def test_missing_part_is_named(tmp_path: Path) -> None:
    split(tmp_path, "bin")
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()

    with pytest.raises(CheckpointError, match=r"files missing: pytorch_model-00002-of-00002.bin"):
        find_weights(tmp_path)


def test_part_that_does_not_hold_what_the_index_says_is_named(tmp_path: Path) -> None:
    split(tmp_path, "safetensors")
    second = "model-00002-of-00002.safetensors"
    store(tmp_path, second, {"a": TENSORS["a"]})

    with pytest.raises(CheckpointError, match=f"{second} lacks b and holds a, which belongs else"):
        read(tmp_path)


def test_digest_is_that_of_the_file(tmp_path: Path) -> None:
    store(tmp_path, "model.safetensors", TENSORS)
    files = find_weights(tmp_path)

    assert files is not None
    content = (tmp_path / "model.safetensors").read_bytes()
    assert files.digest() == hashlib.sha256(content).hexdigest()


def test_digest_of_parts_changes_with_each_of_them(tmp_path: Path) -> None:
    digests = set()
    for changed in (None, "a", "b"):
        split(tmp_path, "safetensors")
        for path in tmp_path.glob("*.safetensors"):
            if changed and path.name.startswith(f"model-0000{'ab'.index(changed) + 1}"):
                store(tmp_path, path.name, {changed: TENSORS[changed] + 1})
        files = find_weights(tmp_path)
        assert files is not None
        digests.add(files.digest())

    assert len(digests) == 3


def test_many_names_are_counted() -> None:
    assert some(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert some(list("ab")) == "a, b"


def header(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot hold its header"),
        (b"\x01\x00", "cannot hold its header"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "cannot hold its header"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "cannot hold its header"),
        (header("[" * 200_000), "nested deeper"),
        (header("[]"), "must be an object"),
        (header('{"a": 5}'), ""),
        (header(json.dumps({f"t{i}": {} for i in range(300_000)})), "at most 20,000 tensors"),
        (header(json.dumps({"x" * (17 << 20): {}})), "allowed are"),
        (
            header('{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}') + b"0000",
            "",
        ),
        (header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4000000000]}}') + b"0000", ""),
    ],
)
def test_a_header_is_bounded_before_it_is_parsed(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged") as caught:
        read(tmp_path)
    assert reason in str(caught.value)


def test_a_torch_file_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    store(tmp_path, "plain.bin", {"a": torch.zeros(1_000_000)})
    with (
        zipfile.ZipFile(tmp_path / "plain.bin") as plain,
        zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))

    with pytest.raises(CheckpointError, match="its entries are packed"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../model.safetensors"}}',
        '{"weight_map": {"a": "..\\\\model.safetensors"}}',
        '{"weight_map": {"a": "/etc/x.safetensors"}}',
        '{"weight_map": {"a": ".hidden.safetensors"}}',
        '{"weight_map": {"a": null}}',
        '{"weight_map": {"a": ["x.safetensors"]}}',
        json.dumps({"weight_map": {f"t{i}": "a.safetensors" for i in range(300_000)}}),
        json.dumps({"weight_map": {f"t{i}": f"{i}.safetensors" for i in range(19_000)}}),
    ],
)
def test_an_index_of_any_other_shape_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)

    with pytest.raises(CheckpointError, match=r"index\.json") as caught:
        find_weights(tmp_path)
    assert len(str(caught.value)) < 1_000
