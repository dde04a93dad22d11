"""How the next token is chosen from the logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from biomamba.runtime.numbers import check_number, check_whole


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the settings apply in the order penalty, temperature, k, p.

    Raises:
        ValueError: A field is out of range; the message names it.
    """

    temperature: float = 0.0
    """Divisor of the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Number of most likely tokens to keep; 0 keeps all."""
    top_p: float = 1.0
    """Probability that the most likely tokens kept must reach together; 1 keeps all."""
    repetition_penalty: float = 1.0
    """Divisor of positive and factor of negative logits of the ids so far; 1 changes nothing.

    Source: CTRL, arXiv 1909.05858, section 4.1; the sign as in transformers.
    """

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, at_least=0)
        check_whole("top_k", self.top_k, at_least=0)
        check_number("top_p", self.top_p, above=0, at_most=1)
        check_number("repetition_penalty", self.repetition_penalty, above=0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities (rows, vocab) of a temperature above 0, in float64."""
        return self._truncate(logits.double() / self.temperature).softmax(-1)

    def penalise(self, logits: Tensor, seen: Tensor) -> Tensor:
        """Make the ids that are true in `seen` (rows, vocab) less likely."""
        penalty = self.repetition_penalty
        return torch.where(
            seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits
        )

    def _truncate(self, logits: Tensor) -> Tensor:
        if 0 < self.top_k < logits.shape[-1]:
            smallest = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.sort(descending=True, stable=True)
            shares = ordered.softmax(-1)
            before = shares.cumsum(-1) - shares
            # The token that crosses top_p is kept, so the first one always is.
            ordered = ordered.masked_fill(before >= self.top_p, -torch.inf)
            logits = torch.empty_like(logits).scatter_(1, order, ordered)
        return logits


class Sampler:
    """Chooses the next id of every row, with a random stream and a memory for each.

    What a row gets does not depend on the other rows.

    Args:
        prompts: Ids of every row, for the repetition penalty.
        seeds: Seed of every row; not used with temperature 0.
        device: Where the logits are.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self._sampling = sampling
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._seen: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device=device)
            for row, prompt in enumerate(prompts):
                self._seen[row, torch.tensor(prompt, device=device)] = True

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        self._streams = [self._streams[row] for row in rows]
        if self._seen is not None:
            self._seen = self._seen[list(rows)]

    def choose(self, logits: Tensor, excluded_id: int | None = None) -> Tensor:
        """Return one id per row of logits (rows, vocab), never `excluded_id`."""
        if self._seen is not None:
            logits = self._sampling.penalise(logits, self._seen)
        if excluded_id is not None:
            logits = logits.index_fill(
                1, torch.tensor([excluded_id], device=logits.device), -torch.inf
            )
        ids = logits.argmax(-1) if self._sampling.temperature == 0 else self._draw(logits)
        if self._seen is not None:
            self._seen.scatter_(1, ids.unsqueeze(1), True)
        return ids

    def _draw(self, logits: Tensor) -> Tensor:
        """Invert the distribution function at one uniform number per row."""
        uniform = torch.cat(
            [torch.rand(1, generator=stream, dtype=torch.float64) for stream in self._streams]
        )
        sums = self._sampling.probabilities(logits).cumsum(-1)
        # The first id whose sum exceeds the number: one of probability 0 is never the first. There
        # is one, as a product with a number of 53 bits below 1 does not round up to the last sum.
        points = uniform.to(logits.device).unsqueeze(1) * sums[:, -1:]
        return torch.searchsorted(sums, points, right=True).squeeze(1)
