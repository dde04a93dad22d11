"""Our models as `AnswerModel`: every prompt passes through the model once.

The answers to be scored start with the state after their prompt, so neither their number nor that
of the prompts beside it changes a score but for the rounding of products. One answer is written
greedily; several are the hypotheses of a beam search of that width, equal texts merged.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biomamba.data.tokenizer import Tokenizer
from biomamba.evaluation.answer_model import POOLINGS, ScoreRequest, Written
from biomamba.inference.beam_search import BeamOptions, Hypothesis, beam_search
from biomamba.inference.text_generation import TextRun, TextStream
from biomamba.model.cuda_graphs import make_decoder
from biomamba.model.decoder import Decoder
from biomamba.model.generation import Generation, GenerationOptions, Vocabulary, prefill
from biomamba.model.language_model import MambaLM
from biomamba.model.loss import IGNORED_TARGET, token_nll
from biomamba.model.mamba2 import LayerState
from biomamba.runtime.errors import CheckpointError
from biomamba.tasks.task import WriteText

# -------------------------------------------------------------------------------------------------
# What a model has in mind after a prompt: one vector per prompt of its last hidden states.
# -------------------------------------------------------------------------------------------------


def pooled_hidden(
    model: MambaLM, prompts: Sequence[Sequence[int]], pooling: str, segment_tokens: int
) -> Tensor:
    """Return float64 vectors (prompts, d_model) of the hidden states after the last norm.

    Each prompt holds the id that starts a document and then its own ids; mean and max are over the
    latter. Prompts pass in segments of `segment_tokens` positions that hand on their states, so
    that the memory does not grow with their length. Filling is on the right, where no position
    that is taken can see it.

    Raises:
        ValueError: A prompt has no ids of its own, or the pooling is not known.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling is {pooling!r}; allowed: {', '.join(POOLINGS)}")
    if min(len(prompt) for prompt in prompts) < 2:
        raise ValueError("a prompt has no ids, so nothing is behind it")
    device = model.head_weight.device
    longest = max(len(prompt) for prompt in prompts)
    filled = [list(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
    ids = torch.tensor(filled, device=device)
    ends = torch.tensor([len(prompt) for prompt in prompts], device=device).unsqueeze(1)
    first = ends - 1 if pooling == "last" else torch.ones_like(ends)
    states = model.initial_states(len(prompts))
    found = []
    for begin in range(0, longest, segment_tokens):
        hidden, states = model.hidden(ids[:, begin : begin + segment_tokens], None, states)
        position = torch.arange(begin, begin + hidden.shape[1], device=device)
        is_left = ((position < first) | (position >= ends)).unsqueeze(-1)
        if pooling == "max":
            found.append(hidden.masked_fill(is_left, -torch.inf).amax(1).double())
        else:
            found.append(hidden.masked_fill(is_left, 0).sum(1, dtype=torch.float64))
    segments = torch.stack(found)
    return segments.amax(0) if pooling == "max" else segments.sum(0) / (ends - first)


# -------------------------------------------------------------------------------------------------
# Our models as `AnswerModel`: every prompt passes through the model once.
# -------------------------------------------------------------------------------------------------


class MambaAnswers:
    """A Mamba model with its tokenizer.

    Args:
        label: Its name in tables and files.
        checkpoint: Where its weights come from, and the sha256 over them.
        prefill_tokens: Positions of each prompt that pass at once: bounds the memory.

    Raises:
        CheckpointError: The model has fewer ids than the tokenizer.
    """

    max_tokens: int | None = None

    def __init__(
        self,
        label: str,
        model: MambaLM,
        tokenizer: Tokenizer,
        *,
        checkpoint: tuple[str, str],
        prefill_tokens: int = 2_048,
    ) -> None:
        if tokenizer.vocab_size > model.config.vocab_size:
            raise CheckpointError(
                f"{label}: the tokenizer has {tokenizer.vocab_size:,} ids, but the model only "
                f"{model.config.vocab_size:,}; put the tokenizer.json that it was trained with "
                "beside its weights"
            )
        self.label, self.tokenizer = label, tokenizer
        self.checkpoint, self.checkpoint_sha256 = checkpoint
        self._model, self._prefill_tokens = model, prefill_tokens
        self._vocabulary = Vocabulary(tokenizer.vocab_size, tokenizer.eod_id)

    @cached_property
    def _decoder(self) -> Decoder:
        return make_decoder(self._model)

    def _documents(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Start each prompt as documents start in training."""
        return [[self.tokenizer.eod_id, *prompt] for prompt in prompts]

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Return the log-probability (nats) of each answer after its prompt, summed over ids.

        Raises:
            ValueError: An answer has no ids.
        """
        answers = [list(answer) for request in requests for answer in request.answers]
        if not all(answers):
            raise ValueError("an answer has no ids, so it has no probability")
        if not answers:
            return [[] for _ in requests]
        prompts = self._documents([request.prompt_ids for request in requests])
        logits, states = prefill(self._model, prompts, self._prefill_tokens)
        owner = [row for row, request in enumerate(requests) for _ in request.answers]
        states = [LayerState(*(part[owner] for part in state)) for state in states]
        scores = iter(self._behind(logits[owner], states, answers).tolist())
        return [[next(scores) for _ in request.answers] for request in requests]

    def _behind(
        self, logits: Tensor, states: Sequence[LayerState], answers: Sequence[Sequence[int]]
    ) -> Tensor:
        """Return the log-probabilities (answers,), each after its own logits and states."""
        longest = max(len(answer) for answer in answers)
        filled = [[*answer, *[IGNORED_TARGET] * (longest - len(answer))] for answer in answers]
        targets = torch.tensor(filled, device=logits.device)
        scores = logits.double().log_softmax(-1).gather(1, targets[:, :1]).squeeze(1)
        if longest == 1:
            return scores
        # Filling is on the right, where no position that is scored can see it.
        inputs = targets[:, :-1].clamp(min=0)
        hidden, _ = self._model.hidden(inputs, None, states, keeps_states=False)
        nll = token_nll(hidden.flatten(0, 1), self._model.head_weight, targets[:, 1:].flatten())
        return scores - nll.double().view(len(answers), -1).sum(1)

    @torch.inference_mode()
    def features(self, prompts: Sequence[Sequence[int]], pooling: str) -> NDArray[np.float64]:
        """Return the pooled hidden states (prompts, d_model) after each prompt."""
        documents = self._documents(prompts)
        pooled = pooled_hidden(self._model, documents, pooling, self._prefill_tokens)
        found: NDArray[np.float64] = pooled.cpu().numpy()
        return found

    def write(self, prompts: Sequence[Sequence[int]], options: WriteText) -> list[Written]:
        """Return what follows each prompt."""
        if not prompts:
            return []
        documents = self._documents(prompts)
        if options.num_candidates > 1:
            return list(self._search(documents, options))
        tokens = GenerationOptions(
            max_new_tokens=options.max_new_tokens, prefill_tokens=self._prefill_tokens
        )
        seeds = [0] * len(documents)  # greedy: nothing is drawn
        generation = Generation(self._decoder, documents, tokens, self._vocabulary, seeds)
        decode = self.tokenizer.decode
        run = TextRun(generation, [TextStream(decode, options.stop, ids[-1:]) for ids in documents])
        for _ in run:
            pass
        return [Written([found.text], found.stop_reason) for found in run.completions]

    def _search(self, documents: Sequence[Sequence[int]], options: WriteText) -> Iterator[Written]:
        beam = BeamOptions(
            width=options.num_candidates,
            max_new_tokens=options.max_new_tokens,
            prefill_tokens=self._prefill_tokens,
        )

        def is_stopped(ids: Sequence[int]) -> bool:
            text = self.tokenizer.decode(ids)
            return any(stop in text for stop in options.stop)

        found = beam_search(self._decoder, documents, beam, self._vocabulary, is_stopped)
        for hypotheses in found:
            yield Written(self._texts(hypotheses, options.stop), hypotheses[0].reason)

    def _texts(self, hypotheses: Sequence[Hypothesis], stop: Sequence[str]) -> list[str]:
        """Return the different texts, best first, each up to its stop text."""
        texts: dict[str, str] = {}
        for found in hypotheses:
            text = self.tokenizer.decode(found.ids)
            end = min((text.find(end) for end in stop if end in text), default=len(text))
            texts.setdefault(text[:end].strip(), text[:end])
        return list(texts.values())
