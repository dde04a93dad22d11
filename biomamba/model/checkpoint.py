"""Read and write checkpoints in the state-spaces layout: config.json and the weights.

Nothing is converted: the parameter names of `MambaLM` are those of the files. A local folder never
touches the network; a hub id `owner/name` (or `owner/name@revision`) is downloaded once and cached.
"""

import hashlib
import json
import pickle
import re
import secrets
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.model.sharding import gather
from biomamba.model.ssd import ScanBackend
from biomamba.model.state_spaces import architecture_differences, parse_config, render_config
from biomamba.runtime.atomic import sync_folder, write_json
from biomamba.runtime.errors import CheckpointError
from biomamba.runtime.ranks import is_rank_zero

_CONFIG = "config.json"
_SAFETENSORS = "model.safetensors"
_TORCH = "pytorch_model.bin"
_EMBEDDING = "backbone.embedding.weight"
_HEAD = "lm_head.weight"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def build_model(
    config: Mamba2Config,
    backend: ScanBackend,
    checkpoint: str | None = None,
    *,
    activation_checkpointing: bool = False,
) -> MambaLM:
    """Build a model, freshly initialised or (checkpoint: folder or hub id) with loaded weights.

    Raises:
        CheckpointError: The checkpoint cannot be read or its architecture is not `config`'s.
    """
    if checkpoint is None:
        model = MambaLM(config, backend)
    else:
        model = _load_described(config, backend, checkpoint)
    if activation_checkpointing:
        model.checkpoint_activations()
    return model


def _load_described(config: Mamba2Config, backend: ScanBackend, checkpoint: str) -> MambaLM:
    folder = _locate(checkpoint)
    differences = architecture_differences(config, read_config(folder))
    if differences:
        raise CheckpointError(
            f"model.checkpoint {checkpoint} is not the model that model.config describes: "
            f"{'; '.join(differences)}. Choose the model option of the checkpoint's scale"
        )
    return _load(config, backend, folder)


def load_pretrained(path_or_hub_id: str | Path, backend: ScanBackend) -> MambaLM:
    """Load a model from a folder or hub id, with the architecture its config.json states.

    Raises:
        CheckpointError: It is missing, damaged, incomplete or of another model.
    """
    folder = _locate(path_or_hub_id)
    return _load(read_config(folder), backend, folder)


def read_config(path_or_hub_id: str | Path) -> Mamba2Config:
    """Read only the config of a checkpoint.

    Raises:
        CheckpointError: There is none, or it describes another model.
    """
    path = _locate(path_or_hub_id) / _CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; a checkpoint needs it") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, holds {type(raw).__name__}")
    return parse_config(raw, str(path))


def weights_digest(path_or_hub_id: str | Path) -> str:
    """Return the sha256 of the file that holds the weights.

    Raises:
        CheckpointError: There is none.
    """
    with _weights_path(_locate(path_or_hub_id)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_pretrained(model: MambaLM, folder: str | Path) -> None:
    """Write config.json and model.safetensors (float32), each complete or not at all.

    A tied head is not written. Weights of an earlier checkpoint in the folder are replaced. Of
    several processes the first one writes; if the model is sharded all must call this.
    """
    state = gather(dict(model.state_dict()))
    if not is_rank_zero():
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in state.items()
    }
    temporary = folder / f".{_SAFETENSORS}.{secrets.token_hex(4)}.tmp"
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})
        temporary.replace(folder / _SAFETENSORS)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    write_json(folder / _CONFIG, render_config(model.config))
    (folder / _TORCH).unlink(missing_ok=True)  # else two sets of weights would lie side by side


def _locate(path_or_hub_id: str | Path) -> Path:
    """Return the local folder, after a download if the name is a hub id and no folder."""
    folder = Path(path_or_hub_id).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(path_or_hub_id, Path) or not _HUB_ID.fullmatch(path_or_hub_id):
        raise CheckpointError(
            f"{path_or_hub_id}: no such folder, and not a hub id of the form owner/name"
        )
    repo, _, revision = path_or_hub_id.partition("@")
    try:
        return _download(repo, revision or None)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise CheckpointError(
            f"{path_or_hub_id}: no such folder, and the download from the hub failed: {error}. "
            "Check the name; on a machine without network download the repository elsewhere and "
            "give its folder, or copy the hub cache and set HF_HUB_OFFLINE=1"
        ) from error


def _download(repo: str, revision: str | None) -> Path:
    """Fetch the config and one file of weights, the safetensors if there are any."""
    folder = snapshot_download(repo, revision=revision, allow_patterns=[_CONFIG, _SAFETENSORS])
    if not Path(folder, _SAFETENSORS).exists():
        folder = snapshot_download(repo, revision=revision, allow_patterns=[_CONFIG, _TORCH])
    return Path(folder)


def _weights_path(folder: Path) -> Path:
    for name in (_SAFETENSORS, _TORCH):
        if (folder / name).is_file():
            return folder / name
        if (folder / f"{name}.index.json").exists():
            raise CheckpointError(
                f"{folder / name}.index.json: weights in several files are not supported; merge "
                f"them into one {_SAFETENSORS}"
            )
    raise CheckpointError(f"{folder}: neither {_SAFETENSORS} nor {_TORCH} is there")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.name == _SAFETENSORS:
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged or not a file of weights: {error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than plain tensors and is not loaded, because it could run code; "
            f"ask for {_SAFETENSORS}"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path}: must hold a dictionary of tensors")
    return tensors


def _load(config: Mamba2Config, backend: ScanBackend, folder: Path) -> MambaLM:
    """Build without initialising and put the tensors in place, as float32."""
    path = _weights_path(folder)
    tensors = _read_tensors(path)
    with torch.device("meta"):
        model = MambaLM(config, backend)
    if config.tie_embeddings:
        _drop_tied_head(tensors, path)
    _check_tensors(tensors, {name: p.shape for name, p in model.named_parameters()}, path)
    wide = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    model.load_state_dict(wide, assign=True)
    return model.requires_grad_()


def _drop_tied_head(tensors: dict[str, Tensor], path: Path) -> None:
    head = tensors.pop(_HEAD, None)
    embedding = tensors.get(_EMBEDDING)
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise CheckpointError(
            f"{path}: {_HEAD} differs from {_EMBEDDING}, but config.json says tie_embeddings; set "
            "tie_embeddings to false there if the head is meant to be separate"
        )


def _check_tensors(tensors: dict[str, Tensor], shapes: dict[str, torch.Size], path: Path) -> None:
    problems = [f"missing {name}" for name in shapes if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in shapes]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, must be {tuple(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise CheckpointError(
            f"{path}: the tensors are not those of its config.json: {'; '.join(problems)}"
        )
