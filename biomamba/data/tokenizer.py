"""The tokenizer: text to ids and back, with a fingerprint that every store carries.

A text can hold the literal string `<|endoftext|>`. Left alone it would become the end-of-document
id and cut the document in two, so special tokens in a text are always encoded as plain text.
"""

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import tokenizers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from biomamba.data.sealed import write_file
from biomamba.runtime.errors import DataError
from biomamba.runtime.input_files import MAX_JSON_BYTES, check_size

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
