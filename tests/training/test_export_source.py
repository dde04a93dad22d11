"""What an export can start with, and how it is found."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.checkpoint import load_weights, save_pretrained
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import Lora, adapted_modules
from biomamba.runtime.errors import CheckpointError, ConfigError
from biomamba.training.checkpoint_io import DurableCheckpointIO
from biomamba.training.export import ExportSource, find_source

CONFIGS: dict[str, MambaConfig] = {
    "Mamba1": Mamba1Config(d_model=16, n_layer=1, vocab_size=37, d_state=4),
    "Mamba2": Mamba2Config(d_model=16, n_layer=1, vocab_size=37, d_state=8, headdim=8),
}


def make_model(seed: int, layer: str = "Mamba2") -> MambaLM:
    torch.manual_seed(seed)
    return MambaLM(CONFIGS[layer], ReferenceScan())


def settings_of(config: MambaConfig) -> dict[str, Any]:
    node = {"_target_": f"biomamba.model.config.{type(config).__name__}", **asdict(config)}
    return {
        "model": {"config": json.loads(json.dumps(node))},
        "tokenizer_fingerprint": "fingerprint",
        "data_fingerprint": "data",
    }


def save_step(
    folder: Path, step: int, model: MambaLM, average: MambaLM | None = None, changes: Any = None
) -> Path:
    """Save a checkpoint as a training does and return its path."""
    path = folder / f"step_{step:07d}.ckpt"
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    callbacks = {"Ema": {"average": dict(average.named_parameters())}} if average else {}
    settings = settings_of(model.config) | (changes or {})
    content = {
        "run": {"step": step, "reason": "test", "settings": settings},
        "state_dict": state | {"seen.tokens": torch.zeros(2), "val_nll.0.sum": torch.zeros(1)},
        "optimizer_states": [{"state": {}}],
        "callbacks": callbacks,
    }
    DurableCheckpointIO().save_checkpoint(content, path)
    return path


def assert_weights(source: ExportSource, model: MambaLM) -> None:
    expected: dict[str, Tensor] = dict(model.named_parameters())
    assert source.weights.keys() == expected.keys()
    assert all(torch.equal(source.weights[name], expected[name]) for name in expected)
    assert source.config == model.config


@pytest.mark.parametrize("layer", CONFIGS)
def test_training_checkpoint_holds_weights_and_average(tmp_path: Path, layer: str) -> None:
    model, average = make_model(1, layer), make_model(2, layer)
    path = save_step(tmp_path, 7, model, average)

    assert_weights(find_source(str(path), "model"), model)
    source = find_source(str(path), "ema")
    assert_weights(source, average)
    assert source.tokenizer_fingerprint == "fingerprint"
    assert (source.origin["step"], source.origin["weights"]) == (7, "ema")
    assert len(source.origin["sha256"]) == 64


@pytest.mark.parametrize("weights", ["model", "ema"])
def test_adapters_are_added_to_the_weights(tmp_path: Path, weights: str) -> None:
    lora = Lora(rank=2, alpha=4.0, targets=["in_proj", "embedding"])
    models = {"model": make_model(1), "ema": make_model(2)}
    for model in models.values():
        lora.add_to(model)
        with torch.no_grad():
            for _, module in adapted_modules(model):
                module.lora_b.normal_()
    settings = settings_of(CONFIGS["Mamba2"])
    settings["model"]["adaptation"] = {"lora": {"_target_": "x", **asdict(lora)}}
    path = save_step(tmp_path, 7, models["model"], models["ema"], settings)
    source = find_source(str(path), weights)
    exported, ids = load_weights(source.config, ReferenceScan(), source.weights), torch.arange(9)

    with torch.no_grad():
        expected = models[weights](ids[None])
        torch.testing.assert_close(exported(ids[None]), expected)


def test_average_that_was_not_kept_is_not_made_up(tmp_path: Path) -> None:
    path = save_step(tmp_path, 7, make_model(1))

    with pytest.raises(CheckpointError, match=r"step_0000007.ckpt: holds no average .*=model"):
        find_source(str(path), "ema")


def test_damaged_training_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save_step(tmp_path, 7, make_model(1))
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(CheckpointError, match="damaged or cut"):
        find_source(str(path), "model")


def test_training_checkpoint_with_numbers_that_are_not_finite_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The writer refuses them, too; here a file of an earlier version.
    monkeypatch.setattr("biomamba.training.checkpoint_io._check_finite", lambda *_: None)
    model = make_model(1)
    with torch.no_grad():
        model.backbone.norm_f.weight[3] = float("nan")
    source = find_source(str(save_step(tmp_path, 7, model)), "model")

    with pytest.raises(CheckpointError, match=r"backbone.norm_f.weight .* not finite"):
        dict(source.weights)


@pytest.mark.parametrize(
    "config",
    [
        {"_target_": "os.system", "command": "x"},
        {"d_model": 16},
        {"_target_": "biomamba.model.config.Mamba2Config", "d_model": 16},
    ],
)
def test_record_without_a_model_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    path = save_step(tmp_path, 7, make_model(1), changes={"model": {"config": config}})

    with pytest.raises(CheckpointError, match=r"step_0000007.ckpt.json: describes no model"):
        find_source(str(path), "model")


def test_newest_good_checkpoint_of_an_unfinished_run_is_taken(tmp_path: Path) -> None:
    newest = make_model(2)
    save_step(tmp_path / "checkpoints", 1, make_model(1))
    save_step(tmp_path / "checkpoints", 2, newest)
    # Of an earlier end of the run, which has gone on since.
    save_pretrained(make_model(3), tmp_path / "model")
    (tmp_path / "run.json").write_text("{}")

    for place in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "last.ckpt"):
        assert_weights(find_source(str(place), "model"), newest)


@pytest.mark.parametrize(("weights", "name"), [("model", "model"), ("ema", "model_ema")])
def test_finished_run_has_its_models(tmp_path: Path, weights: str, name: str) -> None:
    save_step(tmp_path / "checkpoints", 2, make_model(1))
    models = {"model": make_model(2), "model_ema": make_model(3)}
    for folder, model in models.items():
        save_pretrained(model, tmp_path / folder)
    (tmp_path / "run.json").write_text('{"after": {}}')

    source = find_source(str(tmp_path), weights)
    assert_weights(source, models[name])
    assert source.stored is not None
    assert source.stored.folder == tmp_path / name


def test_model_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    model = make_model(1)
    save_pretrained(model, tmp_path)
    source = find_source(str(tmp_path), "model")

    assert_weights(source, model)
    assert (source.origin["kind"], source.origin["layout"]) == ("model", "state_spaces")


def test_model_folder_has_no_average(tmp_path: Path) -> None:
    save_pretrained(make_model(1), tmp_path)

    with pytest.raises(ConfigError, match=r"weights is ema, but .* is a model"):
        find_source(str(tmp_path), "ema")


def test_unknown_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="weights is 'best', must be one of model, ema"):
        find_source("x", "best")


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json: no such file"):
        find_source(str(tmp_path), "model")
