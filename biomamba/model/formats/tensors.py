"""Files of tensors: read, check against a model, and write, one tensor at a time."""

import hashlib
import os
import pickle
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.config import MambaConfig
from biomamba.model.formats.layouts import Layout
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError
from biomamba.runtime.files import write_json
from biomamba.runtime.input_files import MIB, TEXT, Each, loads, read_json

# -------------------------------------------------------------------------------------------------
# The files that hold the weights of a checkpoint: safetensors or torch's own, whole or split.
#
# Files are mapped into memory, not read: a tensor costs memory when it is used, and the system can
# take that back. What is read this way must be copied before the file may change.
# -------------------------------------------------------------------------------------------------

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
    """Return name of a tensor -> name of its file; all files are beside the index.

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
                f"{path}: {tensor} is said to be in {place!r}, which is no {suffix} file beside "
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


# -------------------------------------------------------------------------------------------------
# The tensors of a checkpoint under our names, checked against the model that its config makes.
# -------------------------------------------------------------------------------------------------

EMBEDDING = "backbone.embedding.weight"
HEAD = "lm_head.weight"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Numbers looked at together when a tensor is checked: the check takes a byte for each.
_CHECKED_NUMBERS = 2**24


class Weights(Mapping[str, Tensor]):
    """Tensors by our names, in the order and of the shapes of the model; each is checked when read.

    Reading one gives what is stored, in the dtype that is stored.

    Args:
        tensors: By our names.
        config: Of the model.
        source: Where they come from, for errors.

    Raises:
        CheckpointError: Tensors are missing, unknown, or of another shape or dtype.
    """

    def __init__(self, tensors: Mapping[str, Tensor], config: MambaConfig, source: Path) -> None:
        self.shapes = parameter_shapes(config)
        self._source = source
        self._tensors = {name: _as_shaped(t, self.shapes.get(name)) for name, t in tensors.items()}
        if config.tie_embeddings:
            self._drop_tied_head()
        self._check_vocabulary(config)
        self._check_names_and_shapes()

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        for part in torch.split(tensor.flatten(), _CHECKED_NUMBERS):
            if not torch.isfinite(part).all():
                raise CheckpointError(
                    f"{self._source}: {name} holds numbers that are not finite; the file is "
                    "damaged or the training that made it had gone wrong"
                )
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def _drop_tied_head(self) -> None:
        head, embedding = self._tensors.pop(HEAD, None), self._tensors.get(EMBEDDING)
        if head is not None and embedding is not None and not torch.equal(head, embedding):
            raise CheckpointError(
                f"{self._source}: {HEAD} differs from {EMBEDDING}, but config.json says that they "
                "are tied; set tie_embeddings (transformers: tie_word_embeddings) to false there "
                "if the head is meant to be separate"
            )

    def _check_vocabulary(self, config: MambaConfig) -> None:
        for name in (EMBEDDING, HEAD):
            tensor = self._tensors.get(name)
            if tensor is not None and tensor.shape[:1] != (config.padded_vocab_size,):
                raise CheckpointError(
                    f"{self._source}: {name} is {tuple(tensor.shape)}, but the vocabulary of its "
                    f"config.json is {config.vocab_size}, with padding to a multiple of "
                    f"{config.pad_vocab_size_multiple} {config.padded_vocab_size} rows; "
                    "weights and config.json are of different models"
                )

    def _check_names_and_shapes(self) -> None:
        missing = [name for name in self.shapes if name not in self._tensors]
        extra = [name for name in self._tensors if name not in self.shapes]
        problems = [f"missing {some(missing)}"] if missing else []
        problems += [f"unexpected {some(extra)}"] if extra else []
        for name, shape in self.shapes.items():
            tensor = self._tensors.get(name)
            if tensor is not None and tensor.shape != shape:
                problems.append(f"{name} is {tuple(tensor.shape)}, must be {tuple(shape)}")
            if tensor is not None and tensor.dtype not in _DTYPES:
                problems.append(f"{name} is {tensor.dtype}, must be float32, bfloat16 or float16")
        if problems:
            raise CheckpointError(
                f"{self._source}: the tensors are not those of its config.json: "
                f"{'; '.join(problems)}"
            )


def own_tensors(
    stored: Mapping[str, Tensor], layout: Layout, config: MambaConfig, source: Path
) -> dict[str, Tensor]:
    """Give stored tensors our names; one with an unknown name keeps it.

    Raises:
        CheckpointError: Two have the same meaning.
    """
    names = layout.own_names(config)
    found: dict[str, Tensor] = {}
    for stored_name, tensor in stored.items():
        name = names.get(stored_name, stored_name)
        if name in found:
            raise CheckpointError(f"{source}: {stored_name} is there under two names")
        found[name] = tensor
    return found


def parameter_shapes(config: MambaConfig) -> dict[str, torch.Size]:
    """Return the shape of every parameter of a model, in its order; a tied head is none."""
    with torch.device("meta"):
        model = MambaLM(config, ReferenceScan())
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def _as_shaped(tensor: Tensor, shape: torch.Size | None) -> Tensor:
    """Return a convolution of shape (channels, width) as (channels, 1, width)."""
    is_flat = shape is not None and len(shape) == 3 and tensor.ndim == 2
    return tensor.unsqueeze(1) if is_flat else tensor


# -------------------------------------------------------------------------------------------------
# Write the weights of a checkpoint: one file, or several with an index, one at a time.
# -------------------------------------------------------------------------------------------------

Container = Literal["safetensors", "bin"]


@dataclass(frozen=True, kw_only=True)
class WeightsFormat:
    """How weights are written.

    Attributes:
        layout: The names.
        dtype: Of every tensor.
        container: Kind of file; bin is torch's own, which mamba_ssm reads.
        max_shard_bytes: Limit of a file; a single tensor may exceed it. Writing takes about twice
            this in memory.
    """

    layout: Layout
    dtype: torch.dtype = torch.float32
    container: Container = "safetensors"
    max_shard_bytes: int = 2_000_000_000


def write_weights(
    weights: Weights, config: MambaConfig, folder: Path, form: WeightsFormat
) -> dict[str, float]:
    """Write all tensors into an empty folder and make them durable.

    Returns:
        Tensors that had to be rounded -> the largest relative change of a number (1: lost to 0).

    Raises:
        CheckpointError: A number is not finite, or too large for the dtype.
    """
    names = form.layout.stored_names(config)
    shards = list(_plan(weights, form))
    rounded: dict[str, float] = {}
    places: dict[str, str] = {}
    total_bytes = 0
    for number, shard in enumerate(shards, start=1):
        name = _file_name(form.container, number, len(shards))
        tensors = {names[own]: _narrowed(own, weights[own], form.dtype, rounded) for own in shard}
        total_bytes += sum(t.nbytes for t in tensors.values())
        if form.container == "bin" and config.tie_embeddings and EMBEDDING in shard:
            # mamba_ssm insists on it; a tensor that is there twice is stored once.
            tensors[HEAD] = tensors[names[EMBEDDING]]
        places |= dict.fromkeys(tensors, name)
        save_tensors(tensors, folder / name)
        del tensors  # before the next ones are made
    if len(shards) > 1:
        whole = SAFETENSORS if form.container == "safetensors" else TORCH
        index = {"metadata": {"total_size": total_bytes}, "weight_map": places}
        write_json(folder / f"{whole}.index.json", index)
    return rounded


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a file of tensors that a reader takes, and make its content durable.

    Raises:
        CheckpointError: A number is not finite, or the disk cannot take it.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path} is not written: {name} holds numbers that are not finite, which no reader "
                "takes"
            )
    try:
        if path.suffix == ".bin":
            torch.save(dict(tensors), path)
        else:
            path.touch()
            mode = path.stat().st_mode  # as of any new file; the library makes one of 0600
            save_file(dict(tensors), path, metadata={"format": "pt"})
            path.chmod(stat.S_IMODE(mode))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}; make room and try again") from error
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plan(weights: Weights, form: WeightsFormat) -> Iterator[list[str]]:
    """Deal the tensors out over files, in their order."""
    shard: list[str] = []
    size = 0
    for name, shape in weights.shapes.items():
        bytes_more = shape.numel() * form.dtype.itemsize
        if shard and size + bytes_more > form.max_shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += bytes_more
    yield shard


def _file_name(container: Container, number: int, count: int) -> str:
    stem, suffix = ("model", "safetensors") if container == "safetensors" else (TORCH[:-4], "bin")
    return f"{stem}.{suffix}" if count == 1 else f"{stem}-{number:05d}-of-{count:05d}.{suffix}"


def _narrowed(name: str, tensor: Tensor, dtype: torch.dtype, rounded: dict[str, float]) -> Tensor:
    """Copy a tensor as `dtype`, and note its rounding."""
    narrow = tensor.to(dtype, copy=True).contiguous()
    if dtype == tensor.dtype:
        return narrow
    if torch.isfinite(tensor).all() and not torch.isfinite(narrow).all():
        raise CheckpointError(
            f"{name} holds {tensor.abs().max().item():.3g}, too large for {dtype}; export bfloat16 "
            "or float32"
        )
    wide = tensor.to(torch.float32)
    change = (narrow.to(torch.float32) - wide).abs_()
    if change.any():
        rounded[name] = change.div_(wide.abs()).nan_to_num_(0.0).max().item()
    return narrow
