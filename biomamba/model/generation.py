"""Generation: the prompt by the parallel scan, then token by token; sampling of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from biomamba.model.cuda_graphs import CHOICES, make_decoder
from biomamba.model.decoder import Decoder
from biomamba.model.language_model import MambaLM
from biomamba.model.mamba2 import LayerState
from biomamba.runtime.numbers import check_number, check_whole

# -------------------------------------------------------------------------------------------------
# How the next token is chosen from the logits.
# -------------------------------------------------------------------------------------------------


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
        """Continue with these rows only, in this order."""
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


# -------------------------------------------------------------------------------------------------
# Continue prompts: each prompt by the parallel scan, then token by token with recurrent state.
# -------------------------------------------------------------------------------------------------

_PRODUCT_DTYPES = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How prompts are continued.

    Raises:
        ValueError: A field is out of range; the message names it.
    """

    max_new_tokens: int
    """Number of new tokens at which a row ends in any case."""
    min_new_tokens: int = 0
    """Number of new tokens before which a row does not end by its end-of-document token."""
    prefill_tokens: int = 2_048
    """Positions of each prompt that go through the model at once: bounds the memory."""
    precision: str = "float32"
    """Of the matrix products, as under autocast: float32, or bfloat16, faster for many rows."""
    cuda_graph: bool | str = "auto"
    """Whether a GPU records a step and repeats it: True, False, or "auto", where that works."""
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        check_whole("max_new_tokens", self.max_new_tokens)
        check_whole("min_new_tokens", self.min_new_tokens, at_least=0, at_most=self.max_new_tokens)
        check_whole("prefill_tokens", self.prefill_tokens)
        if self.precision not in _PRODUCT_DTYPES:
            names = " or ".join(_PRODUCT_DTYPES)
            raise ValueError(f"precision={self.precision!r}: must be {names}")
        if self.cuda_graph not in CHOICES:
            raise ValueError(f"cuda_graph={self.cuda_graph!r}: must be auto, true or false")

    @property
    def product_dtype(self) -> torch.dtype | None:
        """What `Decoder` takes: None leaves the weights as they are."""
        return _PRODUCT_DTYPES[self.precision]


@dataclass(frozen=True)
class Vocabulary:
    """The ids that may be chosen, 0 to size - 1, and the one that ends a row (None: none does)."""

    size: int
    eos_id: int | None


class Generation:
    """Prompts of any lengths that are being continued together.

    A row gets the same ids as alone, up to the rounding of the products. A row that has ended takes
    no further part in the work.

    Attributes:
        reasons: Why each row that has ended did: "eos", "length" or what `stop` was told.

    Raises:
        ValueError: A prompt is empty, or an id or the vocabulary is not the model's.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        vocabulary: Vocabulary,
        seeds: Sequence[int],
    ) -> None:
        _check(decoder.model, prompts, vocabulary, seeds)
        self._decoder, self._options, self._vocabulary = decoder, options, vocabulary
        dtype, device = decoder.product_dtype, decoder.model.head_weight.device
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            self._logits, states = prefill(decoder.model, prompts, options.prefill_tokens)
        decoder.load(states)
        self._sampler = Sampler(
            options.sampling, prompts, seeds, vocabulary.size, self._logits.device
        )
        self._rows = list(range(len(prompts)))  # of the decoder, in its order
        self._ids: Tensor | None = None
        self._num_new = 0
        self.reasons: dict[int, str] = {}

    @property
    def is_finished(self) -> bool:
        """Whether every row has ended."""
        return all(row in self.reasons for row in self._rows)

    def stop(self, row: int, reason: str) -> None:
        """End a row from outside."""
        self.reasons.setdefault(row, reason)

    @torch.no_grad()
    def advance(self) -> dict[int, int]:
        """Choose one further id for every row that has not ended, and return the new ids.

        A row that ends by its end-of-document token gets none.
        """
        self._step()
        vocabulary, is_early = self._vocabulary, self._num_new < self._options.min_new_tokens
        excluded = vocabulary.eos_id if is_early else None
        self._ids = self._sampler.choose(self._logits[:, : vocabulary.size], excluded)
        self._num_new += 1
        chosen = dict(zip(self._rows, self._ids.tolist(), strict=True))
        for row, token in chosen.items():
            if token == vocabulary.eos_id:
                self.reasons[row] = "eos"
            elif self._num_new == self._options.max_new_tokens:
                self.reasons[row] = "length"
        return {row: token for row, token in chosen.items() if token != vocabulary.eos_id}

    def _step(self) -> None:
        """Compute the logits after the ids chosen last, of the rows that continue."""
        if self._ids is None:
            return
        going = [n for n, row in enumerate(self._rows) if row not in self.reasons]
        assert going, "every row has ended"
        if len(going) < len(self._rows):
            self._rows = [self._rows[n] for n in going]
            self._ids = self._ids[going]
            self._decoder.keep(going)
            self._sampler.keep(going)
        self._logits = self._decoder.step(self._ids)


def generate(
    model: MambaLM,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    vocabulary: Vocabulary,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """Continue prompts and return the new ids of each, which end before its end of document.

    `seeds` are one per prompt (None: 0, 1, ...).

    Raises:
        ValueError: A prompt is empty, or an id or the vocabulary is not the model's.
    """
    seeds = range(len(prompts)) if seeds is None else seeds
    decoder = make_decoder(model, options.product_dtype, options.cuda_graph)
    generation = Generation(decoder, prompts, options, vocabulary, seeds)
    new_ids: list[list[int]] = [[] for _ in prompts]
    while not generation.is_finished:
        for row, token in generation.advance().items():
            new_ids[row].append(token)
    return new_ids


@torch.no_grad()
def prefill(
    model: MambaLM, prompts: Sequence[Sequence[int]], segment_tokens: int
) -> tuple[Tensor, list[LayerState]]:
    """Return the logits (prompts, padded_vocab) after each prompt, and the states there.

    The prompts pass in segments of `segment_tokens` positions that hand on their states, so that
    the memory does not grow with their length. Shorter ones are filled up on the left; a document
    boundary and an empty state keep the filling out.
    """
    device = model.head_weight.device
    longest = max(len(prompt) for prompt in prompts)
    filled = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    ids = torch.tensor(filled, device=device)
    starts = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    seq_idx = (torch.arange(longest, device=device) >= starts.unsqueeze(1)).int()
    hidden, states = torch.empty(0), model.initial_states(len(prompts))
    for begin in range(0, longest, segment_tokens):
        segment = slice(begin, begin + segment_tokens)
        states = [_only_where(starts < begin, state) for state in states]
        hidden, states = model.hidden(ids[:, segment], seq_idx[:, segment], states)
    return model.logits(hidden[:, -1]), states


def _only_where(has_begun: Tensor, state: LayerState) -> LayerState:
    """Empty the state of the rows that held nothing but filling so far."""
    conv, ssm = (part.masked_fill(~has_begun.view(-1, *[1] * (part.ndim - 1)), 0) for part in state)
    return LayerState(conv, ssm)


def _check(
    model: MambaLM,
    prompts: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    seeds: Sequence[int],
) -> None:
    if not prompts or not all(prompts):
        raise ValueError("empty prompt: give at least one token, such as the end-of-document token")
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one for each")
    if not 1 <= vocabulary.size <= model.config.padded_vocab_size:
        raise ValueError(
            f"vocab_size={vocabulary.size}: must be between 1 and the rows of the model's head, "
            f"{model.config.padded_vocab_size}"
        )
    largest = max(max(prompt) for prompt in prompts)
    if not 0 <= largest < vocabulary.size:
        raise ValueError(f"prompt with id {largest}: must be below vocab_size={vocabulary.size}")
