"""The n best continuations of prompts, without sampling: a beam search.

Hypotheses are ranked by their log-probability per id, the end of document counted, so that short
ones are not preferred. A prompt ends when `width` hypotheses have ended and none that continues is
better per id than the worst of them. Source: the search of transformers with length_penalty=1 and
early_stopping=False.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from biomamba.model.decoder import Decoder
from biomamba.model.generation import Vocabulary, prefill
from biomamba.runtime.numbers import check_whole

IsStopped = Callable[[Sequence[int]], bool]


@dataclass(frozen=True)
class Hypothesis:
    """A continuation.

    Attributes:
        ids: Its ids, without the end of document.
        log_probability: In nats, of the ids and of the end of document where the model wrote it.
        reason: `eos`, `stop` or `length`.
    """

    ids: tuple[int, ...]
    log_probability: float
    reason: str

    @property
    def score(self) -> float:
        """Log-probability per id."""
        return self.log_probability / (len(self.ids) + (self.reason == "eos"))


@dataclass(frozen=True, kw_only=True)
class BeamOptions:
    """How wide and how far is searched."""

    width: int
    max_new_tokens: int
    prefill_tokens: int = 2_048

    def __post_init__(self) -> None:
        for name in ("width", "max_new_tokens", "prefill_tokens"):
            check_whole(name, getattr(self, name))


@dataclass
class _Beam:
    """The hypotheses of one prompt: those that continue, with their totals, and finished ones."""

    options: BeamOptions
    going: list[tuple[tuple[int, ...], float]] = field(default_factory=lambda: [((), 0.0)])
    ended: list[Hypothesis] = field(default_factory=list)

    def extend(
        self, log_probabilities: Tensor, eos_id: int | None, is_stopped: IsStopped
    ) -> list[tuple[int, int]]:
        """Take the best continuations (going, vocab); return parent and id of each."""
        width = self.options.width
        before = log_probabilities.new_tensor([total for _, total in self.going])
        totals = log_probabilities + before.unsqueeze(1)
        # Twice as many as can continue, because each hypothesis may end in one of them.
        best = totals.flatten().topk(min(2 * width, totals.numel()))
        going: list[tuple[tuple[int, ...], float]] = []
        kept = []
        for place, flat in enumerate(best.indices.tolist()):
            parent, token = divmod(flat, totals.shape[1])
            ids, total = self.going[parent][0], float(best.values[place])
            is_end = token == eos_id
            ids = ids if is_end else (*ids, token)
            if is_end or is_stopped(ids):
                if place < width:
                    self.ended.append(Hypothesis(ids, total, "eos" if is_end else "stop"))
            elif len(going) < width:
                going.append((ids, total))
                kept.append((parent, token))
        self.going = going
        return kept if self._goes_on() else []

    def _goes_on(self) -> bool:
        """Whether there is more to find; ends the beam if not."""
        if self.going and len(self.going[0][0]) == self.options.max_new_tokens:
            self.ended += [Hypothesis(ids, total, "length") for ids, total in self.going]
            self.going = []
        if not self.going:
            return False
        ended = self.best()
        best = max(total / len(ids) for ids, total in self.going)
        if len(ended) == self.options.width and ended[-1].score >= best:
            self.going = []
        return bool(self.going)

    def best(self) -> list[Hypothesis]:
        """Return the best of those that ended, best first."""
        return sorted(self.ended, key=lambda found: -found.score)[: self.options.width]


@torch.no_grad()
def beam_search(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    options: BeamOptions,
    vocabulary: Vocabulary,
    is_stopped: IsStopped = lambda _: False,
) -> list[list[Hypothesis]]:
    """Return up to `width` hypotheses per prompt, best first.

    `is_stopped` says whether ids hold a text that ends a continuation. What a prompt gets does not
    depend on the others but for the rounding of products.
    """
    logits, states = prefill(decoder.model, prompts, options.prefill_tokens)
    decoder.load(states)
    beams = [_Beam(options) for _ in prompts]
    while True:
        log_probabilities = logits.double().log_softmax(-1)[:, : vocabulary.size]
        rows, tokens, first = [], [], 0
        for beam in beams:
            num_rows = len(beam.going)
            if not num_rows:
                continue
            mine = log_probabilities[first : first + num_rows]
            for parent, token in beam.extend(mine, vocabulary.eos_id, is_stopped):
                rows.append(first + parent)
                tokens.append(token)
            first += num_rows
        if not rows:
            return [beam.best() for beam in beams]
        decoder.keep(rows)
        logits = decoder.step(torch.tensor(tokens, device=logits.device))
