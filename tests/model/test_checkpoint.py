import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from biomamba.model import checkpoint
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import (
    build_model,
    load_pretrained,
    open_checkpoint,
    read_config,
    save_pretrained,
    weights_digest,
)
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.formats.detect import layout_for
from biomamba.model.language_model import MambaBlock, MambaLM
from biomamba.runtime.errors import CheckpointError

BACKEND = ChunkedScan(8)
EMBEDDING = "backbone.embedding.weight"
Draw = Callable[..., Tensor]


@pytest.fixture
def folder(tiny_model: MambaLM, tmp_path: Path) -> Path:
    """A saved checkpoint."""
    save_pretrained(tiny_model.float(), tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def as_torch_file(folder: Path, content: Any = None) -> None:
    """Replace the safetensors by pytorch_model.bin with the same tensors, or `content`."""
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors if content is None else content, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_round_trip_is_exact(folder: Path, tiny_model: MambaLM, random_ids: Draw) -> None:
    loaded = load_pretrained(folder, BACKEND)
    ids = random_ids(2, 9)

    assert loaded.config == tiny_model.config
    assert torch.equal(loaded(ids), tiny_model(ids))


def test_loaded_model_trains(folder: Path, random_ids: Draw) -> None:
    model = load_pretrained(str(folder), BACKEND)
    model(random_ids(1, 4)).sum().backward()

    assert all(parameter.grad is not None for parameter in model.parameters())


def test_files_are_plain_and_nothing_else_stays(folder: Path, tiny_model: MambaLM) -> None:
    save_pretrained(tiny_model, folder)  # over an earlier one
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_no_reader_takes_leave_the_old_checkpoint(
    folder: Path, tiny_model: MambaLM, value: float
) -> None:
    before = weights_digest(folder)
    with torch.no_grad():
        tiny_model.backbone.norm_f.weight[0] = value
    with pytest.raises(CheckpointError, match=r"backbone\.norm_f\.weight .*not finite"):
        save_pretrained(tiny_model, folder)

    assert weights_digest(folder) == before
    assert len(list(folder.iterdir())) == 2


def test_failed_save_leaves_the_old_checkpoint(
    folder: Path, tiny_model: MambaLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights_digest(folder)

    def fail(_: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_tensors", fail)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(tiny_model, folder)

    assert weights_digest(folder) == before
    assert len(list(folder.iterdir())) == 2


def test_loaded_model_does_not_depend_on_its_file(folder: Path, tiny_model: MambaLM) -> None:
    loaded = load_pretrained(folder, BACKEND)
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(bytes((folder / "model.safetensors").stat().st_size))
    expected = dict(tiny_model.named_parameters())

    assert all(torch.equal(p, expected[name]) for name, p in loaded.named_parameters())


def test_torch_file_is_read(folder: Path, tiny_model: MambaLM, random_ids: Draw) -> None:
    as_torch_file(folder)
    ids = random_ids(1, 5)

    assert torch.equal(load_pretrained(folder, BACKEND)(ids), tiny_model(ids))


def test_saving_removes_weights_of_the_other_format(folder: Path, tiny_model: MambaLM) -> None:
    as_torch_file(folder)
    save_pretrained(tiny_model, folder)

    assert not (folder / "pytorch_model.bin").exists()


def test_half_weights_become_float32(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({k: t.half() for k, t in tensors.items()}))
    dtypes = {parameter.dtype for parameter in load_pretrained(folder, BACKEND).parameters()}

    assert dtypes == {torch.float32}


def test_untied_head_makes_the_round_trip(
    tiny_config: Mamba2Config, tmp_path: Path, random_ids: Draw
) -> None:
    model = MambaLM(Mamba2Config(**{**vars(tiny_config), "tie_embeddings": False}), BACKEND)
    save_pretrained(model, tmp_path)
    ids = random_ids(1, 5)

    assert torch.equal(load_pretrained(tmp_path, BACKEND)(ids), model(ids))


def test_damaged_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a file of weights")

    with pytest.raises(CheckpointError, match=r"model.safetensors: damaged"):
        load_pretrained(folder, BACKEND)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor pytorch_model.bin"):
        load_pretrained(folder, BACKEND)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json: no such file"):
        read_config(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot be read as JSON"), ("[]", "is a list, not an object")]
)
def test_broken_config_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)

    with pytest.raises(CheckpointError, match=message):
        read_config(folder)


def test_config_is_that_of_the_state_spaces(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())

    assert raw["ssm_cfg"] == {"layer": "Mamba2", "d_state": 8, "headdim": 8, "ngroups": 2}
    assert raw["vocab_size"] == 37


def test_digest_is_that_of_the_weights(folder: Path) -> None:
    expected = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()

    assert weights_digest(folder) == expected


def test_build_without_checkpoint_is_fresh(tiny_config: Mamba2Config) -> None:
    model = build_model(tiny_config, BACKEND)

    assert (model.backbone.norm_f.weight == 1).all()
    assert model.backbone.layers[0].mixer.backend is BACKEND


def test_build_switches_activation_checkpointing_on(tiny_config: Mamba2Config) -> None:
    for is_on in (False, True):
        model = build_model(tiny_config, BACKEND, activation_checkpointing=is_on)
        blocks = [m for m in model.modules() if isinstance(m, MambaBlock)]
        assert [block.activation_checkpointing for block in blocks] == [is_on] * 2


def test_only_the_first_process_writes(
    tiny_model: MambaLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    save_pretrained(tiny_model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_build_loads_the_checkpoint(
    folder: Path, tiny_config: Mamba2Config, tiny_model: MambaLM, random_ids: Draw
) -> None:
    ids = random_ids(1, 5)

    assert torch.equal(build_model(tiny_config, BACKEND, str(folder))(ids), tiny_model(ids))


def test_build_refuses_another_architecture(folder: Path, tiny_config: Mamba2Config) -> None:
    other = Mamba2Config(**{**vars(tiny_config), "d_model": 32, "n_layer": 3})

    with pytest.raises(CheckpointError) as error:
        build_model(other, BACKEND, str(folder))

    assert "d_model: config 32, checkpoint 16; n_layer: config 3, checkpoint 2" in str(error.value)


STATIC: list[MambaConfig] = [
    kind(d_model=64, n_layer=2, vocab_size=37, static=names)
    for kind in (Mamba1Config, Mamba2Config)
    for names in (["dt"], ["B", "C"], ["dt", "B", "C"])
]


@pytest.mark.parametrize("config", STATIC, ids=lambda c: f"{c.layer}-{''.join(c.static)}")
def test_static_model_is_no_ordinary_one(
    config: MambaConfig, tmp_path: Path, random_ids: Draw
) -> None:
    ordinary, model = dataclasses.replace(config, static=()), MambaLM(config, BACKEND)
    save_pretrained(model, tmp_path / "static")
    save_pretrained(MambaLM(ordinary, BACKEND), tmp_path / "ordinary")
    ids = random_ids(1, 9)

    assert torch.equal(load_pretrained(tmp_path / "static", BACKEND)(ids), model(ids))
    for wanted, found in ((config, "ordinary"), (ordinary, "static")):
        with pytest.raises(CheckpointError, match=r"static: config .*, checkpoint "):
            build_model(wanted, BACKEND, str(tmp_path / found))
    path = tmp_path / "static" / "config.json"
    raw = json.loads(path.read_text())
    del raw["biomamba"]
    path.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="not those of its config"):
        load_pretrained(tmp_path / "static", BACKEND)


@pytest.mark.network
def test_published_checkpoint_loads() -> None:
    model = load_pretrained("state-spaces/mamba2-130m", BACKEND)

    assert sum(parameter.numel() for parameter in model.parameters()) == 128_989_632


ODD: tuple[Any, ...] = (
    *(None, True, "odd", [1], {"odd": 1}, -1, 0, 1_000_000_000, 10**38, 1e308, 1.5),
    *([[[]]], [{}], {"a": {"b": []}}, "x" * 10_000, ""),
)


def damaged(value: Any) -> Iterator[Any]:
    """Yield a value with every part of it, one at a time, made something else."""
    yield from ODD
    if isinstance(value, dict):
        for key, inner in value.items():
            for odd in damaged(inner):
                yield {**value, key: odd}


@pytest.mark.parametrize("name", ["state_spaces", "transformers"])
def test_no_damage_of_a_config_takes_long_or_is_a_traceback(folder: Path, name: str) -> None:
    config = read_config(folder)
    raw = layout_for(config, name).render(config)
    refusals = []
    for odd in damaged(raw):
        (folder / "config.json").write_text(json.dumps(odd))
        try:
            open_checkpoint(folder)
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 150  # the others are harmless
    assert all("config.json: " in text and len(text) < 2_000 for text in refusals)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000 + "]" * 200_000,
        '{"ssm_cfg":' * 200_000,
        '{"n_layer": 1e400}',
        '{"d_model": ' + "9" * 5_000 + "}",
        '{"x": "' + "x" * 2_000_000 + '"}',
        "{" + ",".join(f'"k{i}": 1' for i in range(50_000)) + ', "ssm_cfg": {}}',
    ],
)
def test_what_is_too_deep_or_too_large_is_refused_at_once(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)

    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        open_checkpoint(folder)
    assert len(str(caught.value)) < 2_000


def test_sizes_are_bounded_before_a_model_is_made(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    for key, value in (("n_layer", 1_000_000_000), ("d_model", 1 << 40), ("vocab_size", 1 << 62)):
        (folder / "config.json").write_text(json.dumps({**raw, key: value}))
        with pytest.raises(CheckpointError, match=rf"{key} must be .* at most"):
            load_pretrained(folder, BACKEND)
    # Within the bounds: the weights are compared with the shapes, no model of the size is made.
    (folder / "config.json").write_text(json.dumps({**raw, "d_model": 1 << 20}))
    with pytest.raises(CheckpointError, match="tensors are not those of its config"):
        load_pretrained(folder, BACKEND)
