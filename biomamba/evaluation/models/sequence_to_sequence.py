"""Encoder-decoders of transformers (T5, Flan-T5, BART ...) as `AnswerModel`.

The encoder reads the prompt as the tokenizer closes a text; the decoder scores or writes the answer
from its start id on. Such a model has no probability of a text without a prompt, so no perplexity.
"""

from collections.abc import Sequence
from typing import Any

import torch

from biomamba.evaluation.answer_model import ScoreRequest, Written
from biomamba.evaluation.models.causal import (
    check_length,
    check_vocabulary,
    eos_ids_of,
    positions_of,
)
from biomamba.evaluation.models.loading import (
    EncoderDecoderTokenizer,
    Pretrained,
    Row,
    Writer,
    batches_by_length,
    fill_right,
    look_up,
    request_rows,
    sums_of,
    wanted_positions,
)
from biomamba.runtime.errors import CheckpointError
from biomamba.tasks.task import WriteText


class TransformersSeq2Seq:
    """An encoder-decoder with its tokenizer.

    Args:
        checkpoint: Where it is.
        label: Its name in tables and files.
        batch_size: Rows that pass at once.

    Raises:
        CheckpointError: It cannot be loaded, or its decoder has no start id.
    """

    def __init__(
        self, checkpoint: Pretrained, *, label: str, device: str = "cpu", batch_size: int = 8
    ) -> None:
        self.label, self.checkpoint = label, f"hf:{checkpoint.source}"
        self.checkpoint_sha256 = checkpoint.sha256()
        self.tokenizer = EncoderDecoderTokenizer(checkpoint)
        self._model = checkpoint.load_model("AutoModelForSeq2SeqLM", device)
        self._batch_size = batch_size
        check_vocabulary(self._model, self.tokenizer, checkpoint)
        self._eos_ids = eos_ids_of(self._model, self.tokenizer)
        start = getattr(self._model.config, "decoder_start_token_id", None)
        if start is None:
            raise CheckpointError(
                f"hf:{checkpoint.source}: config.json has no decoder_start_token_id, with which "
                "the decoder starts; name it there"
            )
        # Targets are encoded as texts are: what is before a text is read before an answer too.
        self._before = [start, *self.tokenizer.first_ids]
        limit, around = (
            positions_of(self._model),
            self.tokenizer.first_ids + self.tokenizer.last_ids,
        )
        self.max_tokens = None if limit is None else limit - max(len(around), len(self._before))

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Return the log-probability (nats) of each answer after its prompt, summed over ids.

        Raises:
            DataError: Prompt and answer are longer than the model can read.
            ValueError: An answer has no ids.
        """
        for request in requests:
            longest = max((len(answer) for answer in request.answers), default=0)
            check_length(self, len(request.prompt_ids) + longest)
        rows, places = request_rows(requests, self._before, has_encoder=True)
        return sums_of(self._log_probabilities(rows), places)

    @torch.inference_mode()
    def _log_probabilities(self, rows: Sequence[Row]) -> list[list[float]]:
        found: list[list[float]] = [[] for _ in rows]
        for numbers in batches_by_length(rows, self._batch_size):
            batch = [rows[n] for n in numbers]
            # Filling on the right of the decoder comes after every position that is scored.
            ids, _ = fill_right([row.ids for row in batch], self._model.device)
            positions = wanted_positions(batch)
            inputs = self._encoder_inputs([row.prompt for row in batch])
            logits = self._model(**inputs, decoder_input_ids=ids, use_cache=False).logits
            values = look_up(logits[:, positions], positions, batch)
            for n, mine in zip(numbers, values, strict=True):
                found[n] = mine
        return found

    def write(self, prompts: Sequence[Sequence[int]], options: WriteText) -> list[Written]:
        """Return what the decoder writes to each prompt.

        Raises:
            DataError: A prompt and what may follow are longer than the model can read.
        """
        for prompt in prompts:
            check_length(self, len(prompt) + options.max_new_tokens)
        writer = Writer(self._model, self.tokenizer, self._eos_ids)
        written: dict[int, Written] = {}
        rows = [Row(prompt, []) for prompt in prompts]
        for numbers in batches_by_length(rows, max(1, self._batch_size // options.num_candidates)):
            before = torch.tensor([self._before] * len(numbers), device=self._model.device)
            inputs = self._encoder_inputs([prompts[n] for n in numbers])
            inputs["decoder_input_ids"] = before
            written |= dict(zip(numbers, writer.write(inputs, before, options), strict=True))
        return [written[n] for n in range(len(prompts))]

    def _encoder_inputs(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        first, last = self.tokenizer.first_ids, self.tokenizer.last_ids
        ids, mask = fill_right([[*first, *p, *last] for p in prompts], self._model.device)
        return {"input_ids": ids, "attention_mask": mask}
