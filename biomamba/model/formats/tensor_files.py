"""The files that hold the weights of a checkpoint: safetensors or torch's own, whole or split.

Files are mapped into memory, not read: a tensor costs memory when it is used, and the system can
take that back. What is read this way must be copied before the file may change.
"""

import hashlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from biomamba.runtime.errors import CheckpointError
from biomamba.runtime.input_files import MIB, TEXT, Each, loads, read_json

SAFETENSORS = "model.safetensors"
TORCH = "pytorch_model.bin"
_SUFFIX = ".index.json"
INDICES = (f"{SAFETENSORS}{_SUFFIX}", f"{TORCH}{_SUFFIX}")
_SHOWN = 5
# A model of 7 B parameters has some 500 tensors, a training checkpoint three times as many.
MAX_TENSORS = 20_000
_MAX_HEADER_BYTES = 16 * MIB


@dataclass(frozen=True)
class WeightFiles:
    """The files of a checkpoint.

    Attributes:
        paths: In the order of their names.
        index: The index of a split checkpoint, in words of its file; None for a single file.
        places: Name of a tensor -> name of its file; empty for a single file.
    """

    paths: tuple[Path, ...]
    index: Path | None = None
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        """The file to name in errors."""
        return self.index or self.paths[0]

    def digest(self) -> str:
        """Return the sha256 of the file, or of the sha256 of all files, one per line."""
        digests = []
        for path in self.paths:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        if self.index is None:
            return digests[0]
        return hashlib.sha256("\n".join(digests).encode("ascii")).hexdigest()

    def read(self) -> dict[str, Tensor]:
        """Map all tensors by the names in the files.

        Raises:
            CheckpointError: A file is damaged, holds other things than tensors, or does not hold
                what the index says.
        """
        tensors: dict[str, Tensor] = {}
        for path in self.paths:
            found = read_tensors(path)
            if self.index is not None:
                self._check(path, found)
            tensors |= found
        return tensors

    def _check(self, path: Path, found: Mapping[str, Tensor]) -> None:
        listed = {name for name, place in self.places.items() if place == path.name}
        lacking, unlisted = sorted(listed - found.keys()), sorted(found.keys() - listed)
        if lacking or unlisted:
            words = [f"lacks {some(lacking)}"] if lacking else []
            words += [f"holds {some(unlisted)}, which belongs elsewhere"] if unlisted else []
            raise CheckpointError(f"{self.index}: {path.name} {' and '.join(words)}")


def find_weights(folder: Path) -> WeightFiles | None:
    """Find the weights of a folder, safetensors first and whole files first, as transformers does.

    Raises:
        CheckpointError: An index is damaged, names a file elsewhere, or one that is missing.
    """
    for name in (SAFETENSORS, TORCH):
        if (folder / name).is_file():
            return WeightFiles((folder / name,))
        if (folder / f"{name}{_SUFFIX}").is_file():
            return _split_weights(folder / f"{name}{_SUFFIX}")
    return None


def read_index(path: Path) -> dict[str, str]:
    """Return name of a tensor -> name of its file; all files lie beside the index.

    Raises:
        CheckpointError: It is damaged or names a file elsewhere.
    """
    shape = {"weight_map": Each(TEXT)}
    content = read_json(path, shape, max_bytes=_MAX_HEADER_BYTES, error=CheckpointError)
    places: dict[str, str] = content.get("weight_map") or {}
    if not places or len(places) > MAX_TENSORS:
        raise CheckpointError(
            f"{path}: not an index of weights: weight_map names {len(places):,} tensors, allowed "
            f"are 1 to {MAX_TENSORS:,}"
        )
    suffix = ".safetensors" if path.name.startswith(SAFETENSORS) else ".bin"
    for tensor, place in places.items():
        is_name = not set(place or "/") & set("/\\:\0")  # null is no name
        if not is_name or not place.endswith(suffix) or place.startswith("."):
            raise CheckpointError(
                f"{path}: {tensor} is said to lie in {place!r}, which is no {suffix} file beside "
                "the index; it is not opened"
            )
    return places


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Map the tensors of one file.

    Raises:
        CheckpointError: It is damaged or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            _check_header(path)
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        check_torch_file(path)
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged or not a file of weights: {error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than plain tensors and is not loaded, because it could run code; "
            f"ask for {SAFETENSORS}"
        ) from error
    return _only_tensors(content, path)


def check_torch_file(path: Path) -> None:
    """Refuse a file of torch.save that would take much more memory or time than its size says.

    Raises:
        ValueError: It holds more than MAX_TENSORS tensors several times over, or packed entries.
        OSError: It cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error
    # Weights, two moments and an average; torch.save packs nothing.
    if len(entries) > 4 * MAX_TENSORS:
        raise ValueError(f"{len(entries):,} entries, allowed are {4 * MAX_TENSORS:,}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its entries are packed, which torch.save never does")
    described = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if described > 4 * _MAX_HEADER_BYTES:
        raise ValueError(f"{described / MIB:.0f} MiB describe its tensors")


def _check_header(path: Path) -> None:
    """Refuse a file whose header is no list of some thousand tensors, before it is parsed.

    Raises:
        ValueError: It is not.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or not 0 < length <= size - 8:
            raise ValueError(f"{size:,} bytes cannot hold its header")
        if length > _MAX_HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes, allowed are {_MAX_HEADER_BYTES:,}")
        header = loads(file.read(length))
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise ValueError(f"its header must be an object of at most {MAX_TENSORS:,} tensors")


def some(names: list[str]) -> str:
    """List some names and count the rest."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _split_weights(index: Path) -> WeightFiles:
    places = read_index(index)
    paths = tuple(index.parent / name for name in sorted(set(places.values())))
    missing = sorted(path.name for path in paths if not path.is_file())
    if missing:
        raise CheckpointError(f"{index}: files missing: {some(missing)}; fetch all of them again")
    return WeightFiles(paths, index, places)


def _only_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and all(isinstance(t, Tensor) for t in content.values()):
        return content
    if isinstance(content, dict) and "optimizer_states" in content:
        found = "a training checkpoint with its optimizer; `python -m biomamba.export` reads those"
    elif isinstance(content, dict):
        found = f"a dictionary of {some(sorted(map(str, content)))}"
    else:
        found = f"a {type(content).__name__}"
    raise CheckpointError(f"{path}: must hold a dictionary of tensors, holds {found}")
