"""Where the tokenizer of a set of stores comes from."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.numbers import check_whole


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
        """Return the kind alone: the fingerprint identifies the content, wherever it lies."""
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
