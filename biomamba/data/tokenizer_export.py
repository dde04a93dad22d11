"""A tokenizer in the files that transformers reads beside a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomamba.data.tokenizer import EOD_TOKEN, Tokenizer
from biomamba.runtime.atomic import write_json

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
GENERATION_CONFIG = "generation_config.json"
_MAX_NEW_TOKENS = 256  # of conf/generate.yaml


@dataclass(frozen=True)
class SpecialIds:
    """Ids that begin, end and fill up a text; None where there is none."""

    bos: int | None = None
    eos: int | list[int] | None = None
    pad: int | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "SpecialIds":
        """Return those of our tokenizers: the end of a document begins the next and fills up."""
        return cls(tokenizer.eod_id, tokenizer.eod_id, tokenizer.eod_id)

    def as_config(self) -> dict[str, Any]:
        """Return the keys of a config.json; null, where it is missing, would become another id."""
        return {"bos_token_id": self.bos, "eos_token_id": self.eos, "pad_token_id": self.pad}


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write what AutoTokenizer reads.

    Deviation: there the text `<|endoftext|>` is the end of a document, as with the published
    tokenizer; here it is always plain text, as there with `split_special_tokens=True`.
    """
    tokenizer.save(folder / "tokenizer.json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": EOD_TOKEN,
        "eos_token": EOD_TOKEN,
        "pad_token": EOD_TOKEN,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", settings)


def write_generation_config(
    folder: Path, ids: SpecialIds, vocab_size: int, padded_vocab_size: int
) -> None:
    """Write what `generate` of transformers needs to give the text that ours gives.

    Greedy, and as long as biomamba.generate writes. Ids from `vocab_size` on have rows in the model
    but no text: they are never chosen.
    """
    settings = ids.as_config() | {"do_sample": False, "max_new_tokens": _MAX_NEW_TOKENS}
    if vocab_size < padded_vocab_size:
        settings["suppress_tokens"] = list(range(vocab_size, padded_vocab_size))
    write_json(folder / GENERATION_CONFIG, settings)
