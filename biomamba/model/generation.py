"""Continue prompts: each prompt by the parallel scan, then token by token with recurrent state."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from biomamba.model.decoder import Decoder
from biomamba.model.graphed_decoder import CHOICES, make_decoder
from biomamba.model.language_model import MambaLM
from biomamba.model.mixer import LayerState
from biomamba.model.sampling import Sampler, Sampling
from biomamba.runtime.numbers import check_whole

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
        """Compute the logits behind the ids chosen last, of the rows that go on."""
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
    """Return the logits (prompts, padded_vocab) behind each prompt, and the states there.

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
