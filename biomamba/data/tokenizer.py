"""The tokenizer: text to ids and back, where it comes from, and its files beside a store or model.

A text can hold the literal string `<|endoftext|>`. Left alone it would become the end-of-document
id and cut the document in two, so special tokens in a text are always encoded as plain text.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from biomamba.runtime.errors import DataError
from biomamba.runtime.files import read_sealed, sha256_of, write_file, write_json, write_sealed
from biomamba.runtime.input_files import MAX_JSON_BYTES, check_size
from biomamba.runtime.numbers import check_whole

EOD_TOKEN = "<|endoftext|>"


class Tokenizer:
    """Encode texts without special tokens and decode ids.

    Attributes:
        vocab_size: Number of ids, without the padding rows a model may add.
        eod_id: Id that ends every document.
        fingerprint: sha256 of the canonical JSON; equal for equal content, whatever its layout.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()
        eod_id = backend.token_to_id(EOD_TOKEN)
        if eod_id is None:
            raise DataError(f"the tokenizer has no token {EOD_TOKEN}; it must end documents")
        self._backend = backend
        self.eod_id: int = eod_id
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.fingerprint: str = sha256(self._canonical_json()).hexdigest()

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[tokenizers.Tokenizer]]:
        # The backend forgets encode_special_tokens when it is pickled: in a worker process the
        # literal <|endoftext|> of a text would end the document.
        return Tokenizer, (self._backend,)

    @classmethod
    def load(cls, source: str, revision: str | None = None) -> "Tokenizer":
        """Load a tokenizer.json file, or the one of a hub repository.

        Raises:
            DataError: If neither exists or the file is not a tokenizer.
        """
        path = Path(source)
        if not path.is_file():
            if source.endswith(".json"):
                raise DataError(f"tokenizer file {source} does not exist")
            path = _download(source, revision)
        check_size(path, MAX_JSON_BYTES)
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except DataError:
            raise
        except Exception as error:  # the Rust side raises plain Exception
            raise DataError(f"{path} is not a tokenizer.json: {error}") from error

    @classmethod
    def byte_tokenizer(cls) -> "Tokenizer":
        """Build the tokenizer of the 256 bytes, lossless for every text."""
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocab = {EOD_TOKEN: 0} | {symbol: i for i, symbol in enumerate(alphabet, start=1)}
        return cls(_byte_level(models.BPE(vocab=vocab, merges=[])))

    @classmethod
    def train_bpe(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Train a byte-level BPE with NFC on texts.

        Deterministic: ties between pairs are broken by their ids.

        Raises:
            ValueError: If vocab_size cannot hold the 256 bytes and the end of document.
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if vocab_size <= len(alphabet):
            raise ValueError(f"vocab_size must be above {len(alphabet)}, got {vocab_size}")
        backend = _byte_level(models.BPE())
        backend.normalizer = normalizers.NFC()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[EOD_TOKEN],
            initial_alphabet=alphabet,
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts; no end-of-document id is added and none can come from a text."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode(self, text: str) -> list[int]:
        """Encode one text like `encode_batch`."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids, special tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def save(self, path: Path) -> None:
        """Write the canonical JSON; it loads with `load` and with transformers."""
        write_file(path, self._canonical_json())

    def _canonical_json(self) -> bytes:
        content = json.loads(self._backend.to_str())
        text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return text.encode("utf-8")


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([EOD_TOKEN])
    return backend


def _download(repository: str, revision: str | None) -> Path:
    try:
        return Path(hf_hub_download(repository, "tokenizer.json", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise DataError(
            f"tokenizer {repository!r} is neither a file nor a readable hub repository ({error}); "
            "give the path of a tokenizer.json"
        ) from error


# -------------------------------------------------------------------------------------------------
# Where the tokenizer of a set of stores comes from.
# -------------------------------------------------------------------------------------------------


class TokenizerSource(Protocol):
    """A way to obtain a tokenizer."""

    @property
    def needs_texts(self) -> bool:
        """Whether the tokenizer is trained on the training split."""

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Obtain the tokenizer; the texts are read only if they are needed."""

    def settings(self) -> dict[str, Any]:
        """Return what identifies this way."""


@dataclass(frozen=True)
class ByteLevel:
    """The tokenizer of single bytes: no training, no files, lossless."""

    needs_texts = False

    def build(self, texts: Iterable[str]) -> Tokenizer:  # noqa: ARG002 - one signature for all
        """Obtain the tokenizer."""
        return Tokenizer.byte_tokenizer()

    def settings(self) -> dict[str, Any]:
        """Return what identifies this way."""
        return {"kind": "byte"}


@dataclass(frozen=True)
class Pretrained:
    """A published tokenizer.

    Attributes:
        path: A tokenizer.json file or a hub repository.
        revision: Commit on the hub; None for a file.
    """

    path: str
    revision: str | None = None

    needs_texts = False

    def build(self, texts: Iterable[str]) -> Tokenizer:  # noqa: ARG002 - one signature for all
        """Obtain the tokenizer."""
        return Tokenizer.load(self.path, self.revision)

    def settings(self) -> dict[str, Any]:
        """Return the kind alone: the fingerprint identifies the content, wherever it is."""
        return {"kind": "pretrained"}


@dataclass(frozen=True)
class TrainedBpe:
    """A byte-level BPE trained on the training split of the corpora.

    Attributes:
        vocab_size: Ids, the end of document and the 256 bytes included.
    """

    vocab_size: int

    needs_texts = True

    def __post_init__(self) -> None:
        check_whole("vocab_size", self.vocab_size, at_least=257)

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Obtain the tokenizer."""
        return Tokenizer.train_bpe(texts, self.vocab_size)

    def settings(self) -> dict[str, Any]:
        """Return what identifies this way."""
        return {"kind": "bpe", **asdict(self)}


# -------------------------------------------------------------------------------------------------
# The one tokenizer that all stores of a set share, kept beside them.
#
# <set>/tokenizer.json           the tokenizer <set>/tokenizer.record.json    how it was made, its
# fingerprint and the hash of the file, sealed
# -------------------------------------------------------------------------------------------------

_FILE_NAME = "tokenizer.json"
_RECORD_NAME = "tokenizer.record.json"
TOKENIZER_FILES = (_FILE_NAME, _RECORD_NAME)


def obtain_tokenizer(
    folder: Path,
    source: TokenizerSource,
    texts: Callable[[], Iterable[str]],
    trained_on: Callable[[], dict[str, Any]],
    *,
    overwrite: bool,
) -> Tokenizer:
    """Load the tokenizer of a set, or make and save it.

    A trained tokenizer is kept when corpora are added later; its record says what it saw.

    Args:
        folder: The set.
        source: How to make it.
        texts: Gives the training texts.
        trained_on: Gives the identity of those texts, for the record of a trained tokenizer.
        overwrite: Make it again even if the set has one.

    Raises:
        DataError: If the set has a tokenizer of another kind, or a damaged one.
    """
    if (folder / _RECORD_NAME).is_file() and not overwrite:
        return _kept(folder, source)
    tokenizer = source.build(texts())
    tokenizer.save(folder / _FILE_NAME)
    record = {
        "settings": source.settings(),
        "fingerprint": tokenizer.fingerprint,
        "file_sha256": sha256_of(folder / _FILE_NAME),
        "trained_on": trained_on() if source.needs_texts else {},
    }
    write_sealed(folder / _RECORD_NAME, record)
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a set of stores.

    Raises:
        DataError: If it is missing or damaged.
    """
    path = folder / _FILE_NAME
    record = read_sealed(folder / _RECORD_NAME)
    if not path.is_file():
        raise DataError(f"{path} is missing; prepare the set again")
    if sha256_of(path) != record["file_sha256"]:
        raise DataError(f"{path} is damaged: it does not match {_RECORD_NAME}")
    return Tokenizer.load(str(path))


def _kept(folder: Path, source: TokenizerSource) -> Tokenizer:
    stored = read_sealed(folder / _RECORD_NAME)
    tokenizer = load_tokenizer(folder)
    asked = source.settings()
    is_same = stored["settings"] == asked
    if is_same and asked["kind"] == "pretrained":
        is_same = source.build(()).fingerprint == tokenizer.fingerprint
    if not is_same:
        raise DataError(
            f"the set {folder} has a tokenizer made with {stored['settings']} (fingerprint "
            f"{tokenizer.fingerprint[:12]}), asked for {asked}; choose another name, or set "
            "overwrite=true to rebuild the set"
        )
    return tokenizer


# -------------------------------------------------------------------------------------------------
# A tokenizer in the files that transformers reads beside a model.
# -------------------------------------------------------------------------------------------------

EXPORTED_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
GENERATION_CONFIG = "generation_config.json"
_MAX_NEW_TOKENS = 256  # of conf/generate.yaml


@dataclass(frozen=True)
class SpecialIds:
    """Ids that start, end and fill up a text; None where there is none."""

    bos: int | None = None
    eos: int | list[int] | None = None
    pad: int | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "SpecialIds":
        """Return those of our tokenizers: the end of a document starts the next and fills up."""
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
