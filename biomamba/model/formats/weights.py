"""The tensors of a checkpoint under our names, checked against the model that its config makes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.config import MambaConfig
from biomamba.model.formats.layout import Layout
from biomamba.model.formats.tensor_files import some
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError

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
