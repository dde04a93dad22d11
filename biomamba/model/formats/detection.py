"""Which layout a checkpoint has; a checkpoint of another model is named for what it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biomamba.model.config import MambaConfig
from biomamba.model.formats.layout import Layout
from biomamba.model.formats.state_spaces_mamba1 import STATE_SPACES_MAMBA1
from biomamba.model.formats.state_spaces_mamba2 import STATE_SPACES_MAMBA2
from biomamba.model.formats.transformers_mamba1 import TRANSFORMERS_MAMBA1
from biomamba.model.formats.transformers_mamba2 import TRANSFORMERS_MAMBA2
from biomamba.runtime.errors import CheckpointError

LAYOUTS = (STATE_SPACES_MAMBA1, STATE_SPACES_MAMBA2, TRANSFORMERS_MAMBA1, TRANSFORMERS_MAMBA2)
_BY_LAYER = {found.config_class.layer: found for found in LAYOUTS if found.name == "state_spaces"}
_BY_MODEL_TYPE = {
    found.constants["model_type"]: found for found in LAYOUTS if found.name == "transformers"
}
_LAYER_OF = {name: found.config_class.layer for name, found in _BY_MODEL_TYPE.items()}
_LOADABLE = "give a Mamba-1 or Mamba2 checkpoint such as state-spaces/mamba2-130m"

# Models that people take for ours, by model_type.
_OTHER_MODELS: Mapping[str, str] = {
    "bamba": "a hybrid of Mamba2 and attention",
    "falcon_h1": "a hybrid of Mamba2 and attention",
    "falcon_mamba": "a Mamba-1 with further norms inside its blocks",
    "gpt_neox": "a Transformer (GPT-NeoX, Pythia)",
    "granitemoehybrid": "a hybrid of Mamba2, attention and experts",
    "jamba": "a hybrid of Mamba-1, attention and experts",
    "llama": "a Transformer (Llama)",
    "nemotron_h": "a hybrid of Mamba2 and attention",
    "zamba": "a hybrid of Mamba-1 and attention",
    "zamba2": "a hybrid of Mamba2 and attention",
}


def find_layout(raw: Mapping[str, Any], source: str) -> Layout:
    """Return the layout of a config.json; `source` names it in errors.

    Raises:
        CheckpointError: It describes another model.
    """
    if "ssm_cfg" in raw and "hidden_size" not in raw:
        return _state_spaces(raw, source)
    model_type = raw.get("model_type")
    if model_type in _BY_MODEL_TYPE:
        return _BY_MODEL_TYPE[model_type]
    if model_type is None:
        keys = ", ".join(sorted(raw)[:8]) or "no key"
        raise CheckpointError(
            f"{source}: has neither ssm_cfg (state-spaces) nor model_type (transformers) but "
            f"{keys}, so the model cannot be told; {_LOADABLE}"
        )
    words = _OTHER_MODELS.get(model_type, "another model")
    raise CheckpointError(
        f"{source}: model_type is {model_type!r:.80}: {words}, which cannot be loaded; {_LOADABLE}"
    )


def layout_for(config: MambaConfig, name: str) -> Layout:
    """Return the layout of that name for the kind of model that a config describes."""
    found = [x for x in LAYOUTS if x.name == name and x.config_class.layer == config.layer]
    assert len(found) == 1, f"no layout {name} for {config.layer}"
    return found[0]


def describe_folder(folder: Path) -> str | None:
    """Say what a folder is, and what to do, if it is no model but something that one may mistake.

    None if nothing is known about it.
    """
    if (folder / "adapter_config.json").is_file():
        return (
            "it is an adapter (adapter_config.json), not a whole model: merge it into its base "
            "model first (in peft: merge_and_unload, then save_pretrained)"
        )
    if (folder / "run.json").is_file() or (folder / "checkpoints").is_dir():
        if (folder / "model" / "config.json").is_file():
            return f"it is a run; its model is {folder / 'model'}"
        return f"it is a run without a finished model; {_export_command(folder)}"
    if any(folder.glob("*.ckpt")):
        return f"it holds checkpoints of a training run; {_export_command(folder)}"
    if any(folder.glob("*.gguf")):
        return f"it holds GGUF files, which cannot be loaded; {_LOADABLE}"
    return None


def describe_file(path: Path) -> str:
    """Say what to do with a file that was given in place of a folder."""
    if path.suffix == ".ckpt":
        return f"it is a checkpoint of a training run; {_export_command(path)}"
    return f"it is a file; give the folder of config.json and the weights: {path.parent}"


def _export_command(source: Path) -> str:
    command = f"python -m biomamba.export checkpoint={source} format=state_spaces output=<folder>"
    return f"make a model of it with: {command}"


def _state_spaces(raw: Mapping[str, Any], source: str) -> Layout:
    mixer = raw["ssm_cfg"]
    if not isinstance(mixer, Mapping):
        raise CheckpointError(f"{source}: ssm_cfg is {mixer!r}, must be an object; {_LOADABLE}")
    layer = mixer.get("layer", "Mamba1")  # mamba_ssm's default
    if layer not in _BY_LAYER:
        raise CheckpointError(
            f"{source}: ssm_cfg.layer is {layer!r:.60}, only {' and '.join(_BY_LAYER)} "
            "can be loaded"
        )
    model_type = raw.get("model_type")
    if model_type is not None and _LAYER_OF.get(model_type) != layer:
        raise CheckpointError(
            f"{source}: contradicts itself: ssm_cfg.layer is {layer!r:.80}, but model_type is "
            f"{model_type!r:.80}"
        )
    return _BY_LAYER[layer]
