"""Causal models of transformers (BioGPT, BioMedLM, Pythia, Llama, Mamba ...) as `AnswerModel`.

Scores come from rows that are filled up on the right, which no position that is scored can see.
Texts are continued after rows that are filled up on the left, under a mask; rows of models with a
recurrent state, which the filling would pass through, are continued with others of their length.
"""

import inspect
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from biomamba.evaluation.answer_model import ScoreRequest, Written
from biomamba.evaluation.models.loading import (
    ForeignTokenizer,
    Pretrained,
    Row,
    Writer,
    batches_by_length,
    fill_left,
    fill_right,
    look_up,
    request_rows,
    sums_of,
    wanted_positions,
)
from biomamba.runtime.errors import CheckpointError, DataError
from biomamba.tasks.task import WriteText


class TransformersCausal:
    """A causal model with its tokenizer.

    Args:
        checkpoint: Where it is.
        label: Its name in tables and files.
        batch_size: Rows that pass at once.

    Attributes:
        first_ids: What every text starts with: what the tokenizer puts there, else its `bos`, else
            its `eos`, after which training continues with the next text.
        eos_id: What ends a text; None if nothing does.

    Raises:
        CheckpointError: It cannot be loaded, or nothing starts its texts.
    """

    def __init__(
        self, checkpoint: Pretrained, *, label: str, device: str = "cpu", batch_size: int = 8
    ) -> None:
        self.label, self.checkpoint = label, f"hf:{checkpoint.source}"
        self.checkpoint_sha256 = checkpoint.sha256()
        self.tokenizer = ForeignTokenizer(checkpoint)
        self._model = checkpoint.load_model("AutoModelForCausalLM", device)
        self._batch_size = batch_size
        check_vocabulary(self._model, self.tokenizer, checkpoint)
        self._eos_ids = eos_ids_of(self._model, self.tokenizer)
        self.eos_id = self._eos_ids[0] if self._eos_ids else None
        self.first_ids = self._begin_of_text(checkpoint)
        limit = positions_of(self._model)
        self.max_tokens = None if limit is None else limit - len(self.first_ids)

    def _begin_of_text(self, checkpoint: Pretrained) -> list[int]:
        config = self._model.config
        found = [self.tokenizer.backend.bos_token_id, config.bos_token_id, self.eos_id]
        begin = self.tokenizer.first_ids or [id_ for id_ in found if id_ is not None][:1]
        if not begin:
            raise CheckpointError(
                f"hf:{checkpoint.source}: neither tokenizer nor config.json names a bos or eos "
                "token, so nothing can be before the first token of a text; name one there"
            )
        return begin

    @cached_property
    def _takes_positions(self) -> bool:
        """Whether logits can be had of some positions only."""
        return "logits_to_keep" in inspect.signature(self._model.forward).parameters

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Return the log-probability (nats) of each answer after its prompt, summed over ids.

        Raises:
            DataError: Prompt and answer are longer than the model can read.
            ValueError: An answer has no ids.
        """
        for request in requests:
            longest = max((len(answer) for answer in request.answers), default=0)
            check_length(self, len(request.prompt_ids) + longest)
        rows, places = request_rows(requests, self.first_ids, has_encoder=False)
        return sums_of(self.log_probabilities(rows), places)

    @torch.inference_mode()
    def log_probabilities(self, rows: Sequence[Row]) -> list[list[float]]:
        """Return what each row wants, in nats."""
        found: list[list[float]] = [[] for _ in rows]
        device = self._model.device
        for numbers in batches_by_length(rows, self._batch_size):
            batch = [rows[n] for n in numbers]
            ids, mask = fill_right([row.ids for row in batch], device)
            positions = wanted_positions(batch)
            some: dict[str, Any] = {}
            if self._takes_positions:
                some = {"logits_to_keep": torch.tensor(positions, device=device)}
            logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False, **some).logits
            if not some:
                logits = logits[:, positions]
            for n, values in zip(numbers, look_up(logits, positions, batch), strict=True):
                found[n] = values
        return found

    def write(self, prompts: Sequence[Sequence[int]], options: WriteText) -> list[Written]:
        """Return what follows each prompt.

        Raises:
            DataError: A prompt and what may follow are longer than the model can read.
        """
        for prompt in prompts:
            check_length(self, len(prompt) + options.max_new_tokens)
        rows = [Row((), [*self.first_ids, *prompt]) for prompt in prompts]
        writer = Writer(self._model, self.tokenizer, self._eos_ids)
        written: dict[int, Written] = {}
        for numbers in self._batches(rows, max(1, self._batch_size // options.num_candidates)):
            ids, mask = fill_left([rows[n].ids for n in numbers], self._model.device)
            found = writer.write({"input_ids": ids, "attention_mask": mask}, ids, options)
            written |= dict(zip(numbers, found, strict=True))
        return [written[n] for n in range(len(prompts))]

    def _batches(self, rows: Sequence[Row], batch_size: int) -> Iterator[list[int]]:
        for numbers in batches_by_length(rows, batch_size):
            if not getattr(self._model, "_is_stateful", False):
                yield numbers
                continue
            for length in sorted({len(rows[n].ids) for n in numbers}):
                yield [n for n in numbers if len(rows[n].ids) == length]


def positions_of(model: Any) -> int | None:
    """Return how many ids a model can read; None where nothing limits them."""
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    return limit


def check_length(model: Any, num_tokens: int) -> None:
    """Raise DataError if prompt and answer are longer than a model can read."""
    if model.max_tokens is not None and num_tokens > model.max_tokens:
        raise DataError(
            f"{model.label} ({model.checkpoint}) reads at most {model.max_tokens} ids of prompt "
            f"and answer together, these are {num_tokens}: lower the limit of the prompt or the "
            "number of new tokens"
        )


def check_vocabulary(model: Any, tokenizer: ForeignTokenizer, checkpoint: Pretrained) -> None:
    """Raise CheckpointError if a tokenizer has more ids than its model."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"hf:{checkpoint.source}: the tokenizer has {tokenizer.vocab_size:,} ids, the model "
            f"only {model.config.vocab_size:,}; put the tokenizer that it was trained with beside "
            "its weights"
        )


def eos_ids_of(model: Any, tokenizer: ForeignTokenizer) -> list[int]:
    """Return the ids that end a text, that of the tokenizer first."""
    found = [tokenizer.eos_id]
    for config in (model.generation_config, model.config):
        ids = getattr(config, "eos_token_id", None)
        found += ids if isinstance(ids, list) else [ids]
    return list(dict.fromkeys(id_ for id_ in found if id_ is not None))
