"""Find a checkpoint in a folder or hub repository, and recognize its layout."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from biomamba.model.config import MambaConfig
from biomamba.model.formats.layouts import (
    STATE_SPACES_MAMBA1,
    STATE_SPACES_MAMBA2,
    TRANSFORMERS_MAMBA1,
    TRANSFORMERS_MAMBA2,
    Layout,
)
from biomamba.model.formats.tensors import INDICES, SAFETENSORS, TORCH, read_index
from biomamba.runtime.errors import CheckpointError

# -------------------------------------------------------------------------------------------------
# Which layout a checkpoint has; a checkpoint of another model is named for what it is.
# -------------------------------------------------------------------------------------------------

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
            f"{keys}, so the model is not recognized; {_LOADABLE}"
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


# -------------------------------------------------------------------------------------------------
# Where a checkpoint is: a folder, or a repository of the hub that is fetched into the cache.
#
# A local folder never touches the network; a hub id `owner/name` (or `owner/name@revision`) is
# downloaded once.
# -------------------------------------------------------------------------------------------------

CONFIG = "config.json"
BESIDE_THE_MODEL = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def locate(path_or_hub_id: str | Path, beside: Sequence[str] = BESIDE_THE_MODEL) -> Path:
    """Return the local folder, after a download if the name is a hub id and no folder.

    `beside` are the files that are fetched with the config and the weights.

    Raises:
        CheckpointError: There is no such folder, and no such repository can be fetched.
    """
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{path}: {describe_file(path)}")
    if isinstance(path_or_hub_id, Path) or not _HUB_ID.fullmatch(path_or_hub_id):
        raise CheckpointError(
            f"{path_or_hub_id}: no such folder, and not a hub id of the form owner/name"
        )
    repo, _, revision = path_or_hub_id.partition("@")
    try:
        return _download(repo, revision or None, beside)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise CheckpointError(
            f"{path_or_hub_id}: no such folder, and the download from the hub failed: {error}. "
            "Check the name; on a machine without network download the repository elsewhere and "
            "give its folder, or copy the hub cache and set HF_HUB_OFFLINE=1"
        ) from error


def _download(repo: str, revision: str | None, beside: Sequence[str]) -> Path:
    """Fetch the config and one set of weights, the safetensors if there are any."""

    def fetch(*names: str) -> Path:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(names)))

    folder = fetch(CONFIG, *beside)
    for whole, index in zip((SAFETENSORS, TORCH), INDICES, strict=True):
        folder = fetch(whole, index)
        if (folder / index).exists() and not (folder / whole).exists():
            return fetch(*sorted(set(read_index(folder / index).values())))
        if (folder / whole).exists():
            break
    return folder
