"""Open `hf:<folder or hub id>` as what its config.json says it is."""

from biomamba.evaluation.models.causal import TransformersCausal
from biomamba.evaluation.models.extractive import ExtractiveReader
from biomamba.evaluation.models.loading import CAUSAL, EXTRACTIVE, Pretrained
from biomamba.evaluation.models.sequence_to_sequence import TransformersSeq2Seq
from biomamba.runtime.errors import ConfigError

PREFIX = "hf:"

Baseline = TransformersCausal | TransformersSeq2Seq | ExtractiveReader


def is_baseline(source: str) -> bool:
    """Whether a checkpoint is to be read by transformers, with its own tokenizer."""
    return source.startswith(PREFIX)


def open_baseline(source: str, *, label: str, device: str = "cpu", batch_size: int = 8) -> Baseline:
    """Open a model of transformers.

    Raises:
        ConfigError: The name is not of the form hf:<folder or hub id>.
        CheckpointError: It cannot be loaded or cannot answer.
        MissingDependencyError: transformers is not installed.
    """
    name = source.removeprefix(PREFIX)
    if name == source or not name:
        raise ConfigError(
            f"{source!r}: another model is named hf:<folder> or hf:<owner/name[@revision]>"
        )
    checkpoint = Pretrained.find(name)
    kind = checkpoint.kind
    found: type[Baseline] = TransformersSeq2Seq
    if kind == CAUSAL:
        found = TransformersCausal
    elif kind == EXTRACTIVE:
        found = ExtractiveReader
    return found(checkpoint, label=label, device=device, batch_size=batch_size)
