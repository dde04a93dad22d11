"""The tokenizer that a checkpoint was trained with."""

from pathlib import Path

from biomamba.data.tokenizer import Tokenizer
from biomamba.model.checkpoint import open_checkpoint
from biomamba.runtime.errors import DataError


def find_tokenizer(checkpoint: str, named: str | None) -> Tokenizer:
    """Load the tokenizer that is named, or the one of the checkpoint."""
    if named is not None:
        return Tokenizer.load(named)
    folder = Path(checkpoint).expanduser()
    repository, _, revision = checkpoint.partition("@")
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(str(folder / "tokenizer.json"))
    try:
        if not folder.is_dir():
            return Tokenizer.load(repository, revision or None)
    except DataError:
        open_checkpoint(checkpoint)  # says what is wrong if there is no checkpoint at all
    raise DataError(
        f"checkpoint={checkpoint}: no tokenizer.json lies beside the weights; name the tokenizer "
        "that the model was trained with: tokenizer_file=<tokenizer.json or hub id>, for the "
        "published state-spaces checkpoints tokenizer_file=EleutherAI/gpt-neox-20b"
    )
