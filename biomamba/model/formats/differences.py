"""Whether a checkpoint is the model that a configuration describes."""

from dataclasses import fields

from biomamba.model.config import Mamba1Config, MambaConfig

_NOT_ARCHITECTURE = frozenset(
    {
        "chunk_size",
        "A_init_range",
        "dt_min",
        "dt_max",
        "dt_init",
        "dt_scale",
        "dt_init_floor",
        "initializer_range",
        "pad_vocab_size_multiple",
    }
)


def architecture_differences(config: MambaConfig, checkpoint: MambaConfig) -> list[str]:
    """Describe each field in which a checkpoint does not fit a config, as `field: config X, ...`.

    Initialisation and chunk length do not count. A checkpoint whose vocab_size is the padded size
    of the config fits: some publish that number.
    """
    if config.layer != checkpoint.layer:
        return [f"layer: config {config.layer}, checkpoint {checkpoint.layer}"]
    differences = []
    for field in fields(config):
        ours, theirs = getattr(config, field.name), getattr(checkpoint, field.name)
        is_same = ours == theirs
        if field.name == "vocab_size":
            is_same = theirs in {ours, config.padded_vocab_size}
        elif field.name == "dt_rank":
            assert isinstance(config, Mamba1Config)
            assert isinstance(checkpoint, Mamba1Config)
            is_same = config.step_rank == checkpoint.step_rank
        if field.name not in _NOT_ARCHITECTURE and not is_same:
            differences.append(f"{field.name}: config {ours}, checkpoint {theirs}")
    rows, found = config.padded_vocab_size, checkpoint.padded_vocab_size
    if rows != found and not any(text.startswith("vocab_size") for text in differences):
        differences.append(f"rows of the embedding: config {rows}, checkpoint {found}")
    return differences
