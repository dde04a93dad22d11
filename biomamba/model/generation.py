"""Text generation with recurrent state: the prompt in one parallel pass, then step by step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from biomamba.model.language_model import MambaLM
from biomamba.model.mixer import LayerState


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Raises:
        ValueError: A field is out of range; the message names it.
    """

    temperature: float = 0.0
    """Divisor of the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Number of most likely tokens to keep; 0 keeps all."""
    top_p: float = 1.0
    """Probability that the most likely tokens kept must reach together; 1 keeps all."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature={self.temperature}: must be 0 (greedy) or positive")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: must be 0 (all) or positive")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: must be above 0 and at most 1")

    def choose(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return one id per row of logits (batch, vocab)."""
        if self.temperature == 0:
            return logits.argmax(-1)
        logits = self._truncate(logits.float() / self.temperature)
        probabilities = logits.softmax(-1)
        if generator is not None:
            probabilities = probabilities.to(generator.device)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1).to(logits.device)

    def _truncate(self, logits: Tensor) -> Tensor:
        if 0 < self.top_k < logits.shape[-1]:
            smallest = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.sort(descending=True, stable=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            # The token that crosses top_p is kept, so the first one always is.
            ordered = ordered.masked_fill(before >= self.top_p, -torch.inf)
            logits = torch.empty_like(logits).scatter_(1, order, ordered)
        return logits


@torch.no_grad()
def generate(
    model: MambaLM,
    prompt_ids: Tensor,
    max_new_tokens: int,
    sampling: Sampling,
    eos_id: int | None,
    vocab_size: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue prompts of one length, (batch, length), and return (batch, length + new).

    A row that has produced `eos_id` (None: never stops) is filled up with it; generation ends with
    the last row, so new <= max_new_tokens. Ids from `vocab_size` on are never chosen.

    Raises:
        ValueError: The prompt is empty, or a number is out of range.
    """
    _check(model, prompt_ids.shape[1], max_new_tokens, vocab_size)
    hidden, states = model.hidden(prompt_ids)
    choice = _Choice(sampling, eos_id, vocab_size, generator)
    new_ids = _continue(model, model.logits(hidden[:, -1]), states, choice, max_new_tokens)
    return torch.cat([prompt_ids, new_ids], dim=1)


@torch.no_grad()
def generate_ragged(
    model: MambaLM,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    eos_id: int | None,
    vocab_size: int,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Continue prompts of different lengths together; return only the new ids of each.

    The same as prompt by prompt: shorter prompts are filled up on the left, and a document boundary
    keeps the filling out of the state. The new ids end before `eos_id`.

    Raises:
        ValueError: A prompt is empty, or a number is out of range.
    """
    longest = max(len(prompt) for prompt in prompts)
    _check(model, min(len(prompt) for prompt in prompts), max_new_tokens, vocab_size)
    device = model.head_weight.device
    filled = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    seq_idx = torch.arange(longest, device=device) >= (longest - lengths).unsqueeze(1)
    hidden, states = model.hidden(torch.tensor(filled, device=device), seq_idx.int())
    choice = _Choice(sampling, eos_id, vocab_size, generator)
    new_ids = _continue(model, model.logits(hidden[:, -1]), states, choice, max_new_tokens)
    return [_before(row, eos_id) for row in new_ids.tolist()]


@dataclass(frozen=True)
class _Choice:
    sampling: Sampling
    eos_id: int | None
    vocab_size: int
    generator: torch.Generator | None


def _check(model: MambaLM, prompt_tokens: int, max_new_tokens: int, vocab_size: int) -> None:
    if prompt_tokens < 1:
        raise ValueError("empty prompt: give at least one token, such as the end-of-document token")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: must be at least 1")
    if not 1 <= vocab_size <= model.config.padded_vocab_size:
        raise ValueError(
            f"vocab_size={vocab_size}: must be between 1 and the rows of the model's head, "
            f"{model.config.padded_vocab_size}"
        )


def _continue(
    model: MambaLM,
    logits: Tensor,
    states: list[LayerState],
    choice: _Choice,
    max_new_tokens: int,
) -> Tensor:
    """Return the new ids (batch, new), new <= max_new_tokens."""
    finished = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    new_ids: list[Tensor] = []
    while True:
        ids = choice.sampling.choose(logits[:, : choice.vocab_size], choice.generator)
        if choice.eos_id is not None:
            ids = ids.masked_fill(finished, choice.eos_id)
            finished = ids == choice.eos_id
        new_ids.append(ids)
        if len(new_ids) == max_new_tokens or bool(finished.all()):
            return torch.stack(new_ids, dim=1)
        logits, states = model.step(ids, states)


def _before(ids: list[int], eos_id: int | None) -> list[int]:
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
