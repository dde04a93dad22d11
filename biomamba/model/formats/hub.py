"""Where a checkpoint lies: a folder, or a repository of the hub that is fetched into the cache.

A local folder never touches the network; a hub id `owner/name` (or `owner/name@revision`) is
downloaded once.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from biomamba.model.formats.detection import describe_file
from biomamba.model.formats.tensor_files import INDICES, SAFETENSORS, TORCH, read_index
from biomamba.runtime.errors import CheckpointError

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
