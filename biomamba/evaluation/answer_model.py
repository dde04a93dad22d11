"""What evaluation asks of a model that answers the items of tasks, whatever its kind.

Prompts come from `Prompt.encode` with the tokenizer of the model that is asked. The model itself
puts before them what its documents begin with (our models: the end-of-document token).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from biomamba.tasks.prompt import EncodedPrompt, PromptTokenizer
from biomamba.tasks.task import WriteText

POOLINGS = ("last", "mean", "max")


@dataclass(frozen=True)
class ScoreRequest:
    """A prompt and the answers to be scored behind it, as ids without special tokens."""

    prompt_ids: Sequence[int]
    answers: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Written:
    """What a model wrote behind a prompt.

    Attributes:
        candidates: The answers, best first, without what follows a stop text; at least one.
        stop_reason: Why the best one ended: `eos`, `stop` (a stop text) or `length`.
    """

    candidates: Sequence[str]
    stop_reason: str


class AnswerTokenizer(PromptTokenizer, Protocol):
    """The tokenizer of a model, and what tells it from another one."""

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides its ids."""

    @property
    def vocab_size(self) -> int:
        """Number of its ids."""


@runtime_checkable
class JoiningTokenizer(Protocol):
    """A tokenizer that may write an answer otherwise behind a prompt than alone."""

    def join(self, prompt: str, answers: Sequence[str]) -> ScoreRequest:
        """Return a prompt and its answers as they are written one behind the other."""


def score_request(
    tokenizer: PromptTokenizer, prompt: EncodedPrompt, answers: Sequence[str]
) -> ScoreRequest:
    """Return the request for answers (their texts, as `Prompt.answer` gives them)."""
    if isinstance(tokenizer, JoiningTokenizer):
        return tokenizer.join(prompt.text, answers)
    return ScoreRequest(prompt.ids, tokenizer.encode_batch(answers))


class AnswerModel(Protocol):
    """A model that scores and writes answers. What an item gets does not depend on its batch."""

    @property
    def label(self) -> str:
        """Name in tables and files: `model`, `base`, `adapted`, or that of another model."""

    @property
    def tokenizer(self) -> AnswerTokenizer:
        """Turns prompts and answers into ids."""

    @property
    def checkpoint(self) -> str:
        """Where the weights come from: a path or the name of a repository."""

    @property
    def checkpoint_sha256(self) -> str:
        """sha256 over the weights."""

    @property
    def max_tokens(self) -> int | None:
        """Most ids of prompt and answer together; None where there is no limit."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Return the log-probability (nats) of each answer behind its prompt, summed over ids."""

    def write(self, prompts: Sequence[Sequence[int]], options: WriteText) -> list[Written]:
        """Return what follows each prompt."""


@runtime_checkable
class FeatureModel(Protocol):
    """An answer model that shows its hidden states behind a prompt."""

    def features(self, prompts: Sequence[Sequence[int]], pooling: str) -> NDArray[np.float64]:
        """Return one vector per prompt (prompts, width), pooled over its positions."""


@dataclass(frozen=True)
class Passage:
    """A question and the text in which its answer stands."""

    question: str
    context: str


@runtime_checkable
class PassageReader(Protocol):
    """An answer model that marks its answers in a passage and reads no prompt."""

    def read(self, passages: Sequence[Passage], num_candidates: int) -> list[Written]:
        """Return the best answers to each question, different texts."""
