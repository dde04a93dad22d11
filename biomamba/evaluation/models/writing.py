"""Continue rows with `generate` of transformers, under the rules of our own models.

Greedy for one candidate; for several a beam of that width, ranked by log-probability per id. What a
checkpoint says about generation (sampling, penalties, minimal lengths) does not count, so that all
models write alike; ids without a text are never chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from biomamba.evaluation.answer_model import Written
from biomamba.evaluation.models.foreign_tokenizer import ForeignTokenizer
from biomamba.evaluation.models.pretrained import import_transformers
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.task import WriteText


@dataclass(frozen=True)
class Writer:
    """A model that continues rows.

    Attributes:
        eos_ids: Ids that end a text; perhaps none.
    """

    model: Any
    tokenizer: ForeignTokenizer
    eos_ids: Sequence[int]

    @torch.inference_mode()
    def write(
        self, inputs: Mapping[str, Tensor], last_ids: Tensor, options: WriteText
    ) -> list[Written]:
        """Return what follows each row.

        Args:
            inputs: Arguments of `generate` that hold the rows.
            last_ids: (rows, length); what the decoder reads before the first new id.
            options: How much, and where to stop.

        Raises:
            ConfigError: transformers cannot search with this model.
        """
        begin, width = last_ids.shape[1], options.num_candidates
        criteria = [self._stopping(begin, options.stop)] if options.stop else None
        config = self._config(options)
        try:
            found = self.model.generate(
                **inputs, generation_config=config, stopping_criteria=criteria
            )
        except ValueError as error:
            raise ConfigError(
                f"transformers cannot write {width} answers with this model: {error}"
            ) from error
        before = last_ids[:, -1:].tolist()
        texts = [
            self._read(ids[begin:], before[n // width], options.stop)
            for n, ids in enumerate(found.tolist())
        ]
        return [_merged(texts[first : first + width]) for first in range(0, len(texts), width)]

    def _config(self, options: WriteText) -> Any:
        eos, pad = list(self.eos_ids) or None, next(iter(self.eos_ids), 0)
        make = import_transformers().GenerationConfig
        # `generate` fills gaps from the model's own; the ids of the texts themselves are given.
        self.model.generation_config = make(eos_token_id=eos, pad_token_id=pad)
        textless = range(self.tokenizer.vocab_size, self.model.config.vocab_size)
        return make(
            max_new_tokens=options.max_new_tokens,
            do_sample=False,
            num_beams=options.num_candidates,
            num_return_sequences=options.num_candidates,
            length_penalty=1.0,
            early_stopping=False,
            eos_token_id=eos,
            pad_token_id=pad,
            decoder_start_token_id=getattr(self.model.config, "decoder_start_token_id", None),
            suppress_tokens=list(textless) or None,
        )

    def _stopping(self, begin: int, stop: Sequence[str]) -> Callable[..., Tensor]:
        def is_stopped(ids: Tensor, *_: object, **__: object) -> Tensor:
            rows = ids[:, begin - 1 :].tolist()
            texts = [self._text(row[1:], row[:1]) for row in rows]
            found = [any(end in text for end in stop) for text in texts]
            return torch.tensor(found, device=ids.device)

        return is_stopped

    def _read(
        self, ids: Sequence[int], before: Sequence[int], stop: Sequence[str]
    ) -> tuple[str, str]:
        """Return the text of new ids up to its end, and why it ended."""
        last = next((n for n, token in enumerate(ids) if token in self.eos_ids or token < 0), None)
        text = self._text(ids[:last], before)
        places = [text.find(end) for end in stop if end in text]
        if places:
            return text[: min(places)], "stop"
        return text, "length" if last is None else "eos"

    def _text(self, ids: Sequence[int], before: Sequence[int]) -> str:
        """Return the text of ids behind another one, which tells whether it begins with a space."""
        decode = self.tokenizer.decode
        head, whole = decode(before), decode([*before, *ids])
        return whole[len(head) :] if whole.startswith(head) else decode(ids)


def _merged(texts: Sequence[tuple[str, str]]) -> Written:
    """Return the different texts, best first."""
    found: dict[str, str] = {}
    for text, _ in texts:
        found.setdefault(text.strip(), text)
    return Written(list(found.values()), texts[0][1])
