"""The tokenizer of another model, behind the interface of ours.

An answer is scored as the tokenizer continues the prompt: prompt and answer are encoded together,
and what this encoding shares with that of the prompt alone is the prompt. So no space is doubled or
lost where a tokenizer marks the beginning of words (sentencepiece), and a token that spans the
boundary belongs to the answer. Texts never become special tokens.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biomamba.evaluation.answer_model import ScoreRequest
from biomamba.evaluation.models.pretrained import TOKENIZER_FILES, Pretrained
from biomamba.runtime.errors import CheckpointError

_PROBE = "a"


class ForeignTokenizer:
    """A tokenizer of transformers.

    Attributes:
        backend: The tokenizer itself.
        first_ids: What it puts before a text, as the beginning of a sentence; perhaps nothing.
        last_ids: What it puts behind a text.
        eos_id: What ends a text; None if it has none.
    """

    def __init__(self, checkpoint: Pretrained) -> None:
        self.backend: Any = checkpoint.load_tokenizer()
        self.fingerprint = _fingerprint(self.backend, checkpoint.folder)
        self.vocab_size = len(self.backend)
        self.eos_id: int | None = self.backend.eos_token_id
        # Lengths are checked against the model; the limit of a tokenizer is a guess, and only logs.
        self.backend.model_max_length = 10**9
        plain = self._encode([_PROBE])[0]
        whole = self._encode([_PROBE], add_special_tokens=True)[0]
        place = _find(plain, whole)
        if not plain or place is None:
            raise CheckpointError(
                f"hf:{checkpoint.source}: its tokenizer encodes {_PROBE!r} as {plain}, with "
                f"special tokens as {whole}: the one is not part of the other, so that prompts "
                "cannot be put together"
            )
        self.first_ids, self.last_ids = whole[:place], whole[place + len(plain) :]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts without special tokens."""
        return self._encode(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        text: str = self.backend.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def join(self, prompt: str, answers: Sequence[str]) -> ScoreRequest:
        """Return a prompt and its answers as they are written one behind the other."""
        prompt_ids = self._encode([prompt])[0]
        joined = self._encode([prompt + answer for answer in answers])
        shared = min((_common(prompt_ids, ids) for ids in joined), default=len(prompt_ids))
        return ScoreRequest(prompt_ids[:shared], [ids[shared:] for ids in joined])

    def _encode(self, texts: Sequence[str], *, add_special_tokens: bool = False) -> list[list[int]]:
        if not texts:
            return []
        found = self.backend(
            list(texts),
            add_special_tokens=add_special_tokens,
            split_special_tokens=True,
            padding=False,
            truncation=False,
        )
        ids: list[list[int]] = found["input_ids"]
        return ids


class EncoderDecoderTokenizer(ForeignTokenizer):
    """The tokenizer of a model that reads the prompt and then begins the answer afresh."""

    def join(self, prompt: str, answers: Sequence[str]) -> ScoreRequest:
        """Return a prompt, and the answers without the space that would part them from it."""
        return ScoreRequest(
            self._encode([prompt])[0], self._encode([answer.strip() for answer in answers])
        )


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the beginning that two sequences share."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))


def _find(part: Sequence[int], whole: Sequence[int]) -> int | None:
    places = range(len(whole) - len(part) + 1)
    return next((n for n in places if list(whole[n : n + len(part)]) == list(part)), None)


def _fingerprint(backend: Any, folder: Path) -> str:
    """Return a sha256 over the files of a tokenizer and its class."""
    digest = hashlib.sha256(type(backend).__name__.encode())
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            digest.update(name.encode())
            digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()
