from pathlib import Path
from typing import Any

import pytest

from biomamba.model.config import Mamba1Config, Mamba2Config
from biomamba.model.formats.detect import (
    describe_file,
    describe_folder,
    find_layout,
    layout_for,
)
from biomamba.runtime.errors import CheckpointError


@pytest.mark.parametrize(
    ("raw", "name", "layer"),
    [
        ({"ssm_cfg": {"layer": "Mamba2"}}, "state_spaces", "Mamba2"),
        ({"ssm_cfg": {"layer": "Mamba2"}, "model_type": "mamba2"}, "state_spaces", "Mamba2"),
        ({"ssm_cfg": {}}, "state_spaces", "Mamba1"),
        ({"ssm_cfg": {"layer": "Mamba1"}}, "state_spaces", "Mamba1"),
        ({"model_type": "mamba2", "hidden_size": 8}, "transformers", "Mamba2"),
        ({"model_type": "mamba", "hidden_size": 8, "ssm_cfg": {}}, "transformers", "Mamba1"),
    ],
)
def test_layout_is_told_by_the_keys(raw: dict[str, Any], name: str, layer: str) -> None:
    layout = find_layout(raw, "config.json")

    assert (layout.name, layout.config_class.layer) == (name, layer)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model_type": "gpt_neox"}, r"'gpt_neox': a Transformer .*/mamba2-130m"),
        ({"model_type": "jamba"}, "'jamba': a hybrid of Mamba-1, attention and experts"),
        ({"model_type": "falcon_mamba"}, "further norms inside its blocks"),
        ({"model_type": "whisper"}, "'whisper': another model"),
        ({"r": 8, "peft_type": "LORA"}, "neither ssm_cfg .* nor model_type .* peft_type, r"),
        ({}, "but no key"),
        ({"ssm_cfg": None}, "ssm_cfg is None, must be an object"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "'Mamba3', only Mamba1 and Mamba2"),
        ({"ssm_cfg": {}, "model_type": "mamba2"}, "'Mamba1', but model_type is 'mamba2'"),
    ],
)
def test_another_model_is_called_by_its_name(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"here/config.json: .*{message}"):
        find_layout(raw, "here/config.json")


@pytest.mark.parametrize("name", ["state_spaces", "transformers"])
def test_layout_of_a_config(name: str) -> None:
    sizes = {"d_model": 64, "n_layer": 1, "vocab_size": 9}
    for config in (Mamba1Config(**sizes), Mamba2Config(**sizes)):
        layout = layout_for(config, name)
        assert (layout.name, layout.config_class) == (name, type(config))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter .*merge_and_unload"),
        (["run.json", "model/config.json"], "it is a run; its model is .*model"),
        (["run.json"], r"a run without a finished model; .*biomamba.export checkpoint="),
        (["step_0000100.ckpt"], "checkpoints of a training run; .*biomamba.export checkpoint="),
        (["model.gguf"], "GGUF"),
    ],
)
def test_folder_that_is_no_model_is_described(
    tmp_path: Path, files: list[str], message: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    words = describe_folder(tmp_path)

    assert words is not None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(words)


def test_unknown_folder_is_not_guessed_at(tmp_path: Path) -> None:
    assert describe_folder(tmp_path) is None


def test_file_in_place_of_a_folder_is_described() -> None:
    assert "biomamba.export checkpoint=x/step_1.ckpt" in describe_file(Path("x/step_1.ckpt"))
    assert describe_file(Path("x/model.safetensors")).endswith(": x")
