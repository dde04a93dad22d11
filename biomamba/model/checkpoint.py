"""Read and write models: config.json and the weights, in any layout that `formats` has a table for.

Parameters of `MambaLM` are named as in the state-spaces checkpoints, and that is what is written
here; a folder in the layout of transformers is read as well. Weights that are narrower than float32
become float32, which changes no number.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomamba.model.config import MambaConfig
from biomamba.model.formats.detect import CONFIG, describe_folder, find_layout, layout_for, locate
from biomamba.model.formats.layouts import Layout, architecture_differences
from biomamba.model.formats.tensors import (
    INDICES,
    SAFETENSORS,
    TORCH,
    WeightFiles,
    Weights,
    find_weights,
    own_tensors,
    save_tensors,
)
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import Adaptation, merge_state
from biomamba.model.sharding import gather
from biomamba.model.ssd import ScanBackend
from biomamba.runtime.errors import CheckpointError
from biomamba.runtime.files import sync_folder, write_json
from biomamba.runtime.input_files import MIB, OBJECT, TEXT, Shape, read_json
from biomamba.runtime.ranks import is_rank_zero

_CONFIG_SHAPE: Shape = {"ssm_cfg": {"layer": TEXT}, "initializer_cfg": OBJECT, "model_type": TEXT}


def build_model(
    config: MambaConfig,
    backend: ScanBackend,
    checkpoint: str | None = None,
    *,
    activation_checkpointing: bool = False,
    compile_norms: bool = False,
    adaptation: Adaptation | None = None,
) -> MambaLM:
    """Build a model, freshly initialized or (checkpoint: folder or hub id) with loaded weights.

    Raises:
        CheckpointError: The checkpoint cannot be read or its architecture is not `config`'s.
        ConfigError: The adaptation names what the model does not have, or there is no compiler for
            compile_norms.
    """
    if checkpoint is None:
        model = MambaLM(config, backend)
    else:
        model = _load_described(config, backend, checkpoint)
    if activation_checkpointing:
        model.checkpoint_activations()
    if compile_norms:
        model.compile_norms()
    if adaptation is not None:
        adaptation.apply(model)
    return model


def _load_described(config: MambaConfig, backend: ScanBackend, checkpoint: str) -> MambaLM:
    stored = open_checkpoint(checkpoint)
    differences = architecture_differences(config, stored.config)
    if differences:
        raise CheckpointError(
            f"model.checkpoint {checkpoint} is not the model that model.config describes: "
            f"{'; '.join(differences)}. Choose the model option of the checkpoint's scale"
        )
    return load_weights(config, backend, stored.weights())


def load_pretrained(path_or_hub_id: str | Path, backend: ScanBackend) -> MambaLM:
    """Load a model from a folder or hub id, with the architecture its config.json states.

    Raises:
        CheckpointError: It is missing, damaged, incomplete or of another model.
    """
    stored = open_checkpoint(path_or_hub_id)
    return load_weights(stored.config, backend, stored.weights())


@dataclass(frozen=True)
class StoredModel:
    """A checkpoint on disk whose config.json was read.

    Attributes:
        folder: Where it is.
        layout: Its layout.
        config: Its architecture.
        raw: The content of its config.json.
    """

    folder: Path
    layout: Layout
    config: MambaConfig
    raw: dict[str, Any]

    def files(self) -> WeightFiles:
        """Find the weights.

        Raises:
            CheckpointError: There are none, or their index is wrong.
        """
        found = find_weights(self.folder)
        if found is None:
            known = describe_folder(self.folder)
            names = ", ".join((SAFETENSORS, *INDICES))
            raise CheckpointError(
                f"{self.folder}: {known}"
                if known
                else f"{self.folder}: neither {SAFETENSORS} nor {TORCH} is there, nor an index "
                f"({names})"
            )
        return found

    def weights(self) -> Weights:
        """Map the weights into memory and check their names, shapes and dtypes.

        Raises:
            CheckpointError: They are damaged or of another model.
        """
        files = self.files()
        tensors = own_tensors(files.read(), self.layout, self.config, files.source)
        return Weights(tensors, self.config, files.source)


def open_checkpoint(path_or_hub_id: str | Path) -> StoredModel:
    """Find a checkpoint and read its config.json.

    Raises:
        CheckpointError: There is none, or it describes another model.
    """
    folder = locate(path_or_hub_id)
    path = folder / CONFIG
    try:
        raw = read_json(path, _CONFIG_SHAPE, max_bytes=MIB, error=CheckpointError)
    except FileNotFoundError:
        known = describe_folder(folder)
        raise CheckpointError(
            f"{folder}: {known}" if known else f"{path}: no such file; a checkpoint needs it"
        ) from None
    layout = find_layout(raw, str(path))
    return StoredModel(folder, layout, layout.parse(raw, str(path)), raw)


def read_config(path_or_hub_id: str | Path) -> MambaConfig:
    """Read only the config of a checkpoint.

    Raises:
        CheckpointError: There is none, or it describes another model.
    """
    return open_checkpoint(path_or_hub_id).config


def weights_digest(path_or_hub_id: str | Path) -> str:
    """Return the sha256 of the file that holds the weights; see WeightFiles for several.

    Raises:
        CheckpointError: There is none.
    """
    return open_checkpoint(path_or_hub_id).files().digest()


def load_weights(config: MambaConfig, backend: ScanBackend, weights: Weights) -> MambaLM:
    """Build a model without initializing it, and copy the weights into it as float32, one by one.

    Raises:
        CheckpointError: A number is not finite.
    """
    with torch.device("meta"):
        model = MambaLM(config, backend)
    wide: dict[str, Tensor] = {
        name: tensor.to(torch.float32, copy=True) for name, tensor in weights.items()
    }
    model.load_state_dict(wide, assign=True)
    return model.requires_grad_()


def save_pretrained(model: MambaLM, folder: str | Path) -> None:
    """Write config.json and model.safetensors (float32), each complete or not at all.

    A tied head is not written, and adapters are merged into their weights. Weights of an earlier
    checkpoint in the folder are replaced. Of several processes the first one writes; if the model
    is sharded all must call this.
    """
    state = gather(dict(model.state_dict()))
    if not is_rank_zero():
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layout = layout_for(model.config, "state_spaces")
    names = layout.stored_names(model.config)
    tensors = {
        names[name]: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in merge_state(model, state).items()
    }
    temporary = folder / f".{secrets.token_hex(4)}.tmp.safetensors"
    try:
        save_tensors(tensors, temporary)
        temporary.replace(folder / SAFETENSORS)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    write_json(folder / CONFIG, layout.render(model.config))
    for other in (TORCH, *INDICES):  # else two sets of weights would be side by side
        (folder / other).unlink(missing_ok=True)
