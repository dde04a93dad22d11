"""Extractive readers of transformers (BERT, BioBERT ... fine-tuned in the form of SQuAD).

A question and its context pass in windows that overlap. Every span of a window is a candidate with
the sum of its start and end logit; equal texts are one candidate with its best sum, over all
windows. "No answer" is never a candidate: the task always has one.
Source: the n-best rule of run_squad, google-research/bert; windows and lengths of its defaults.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from biomamba.evaluation.answer_model import Passage, ScoreRequest, Written
from biomamba.evaluation.models.causal import check_vocabulary, positions_of
from biomamba.evaluation.models.loading import ForeignTokenizer, Pretrained, fill_right
from biomamba.runtime.errors import CheckpointError, ConfigError, DataError
from biomamba.tasks.task import WriteText


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How a passage is cut.

    Attributes:
        length: Ids of question and context together.
        overlap: Ids of the context that two neighbors share.
        max_answer: Ids of the longest answer.
    """

    length: int = 384
    overlap: int = 128
    max_answer: int = 30


@dataclass(frozen=True)
class _Window:
    """A part of a passage: its ids, their segments, and where each is in the context."""

    passage: int
    ids: list[int]
    segments: list[int]
    offsets: list[tuple[int, int] | None]  # None: not of the context


class ExtractiveReader:
    """A reader with its tokenizer.

    Args:
        checkpoint: Where it is.
        label: Its name in tables and files.
        batch_size: Windows that pass at once.

    Raises:
        CheckpointError: It cannot be loaded, or its tokenizer knows no offsets.
    """

    max_tokens: int | None = None  # a longer passage has more windows

    def __init__(
        self,
        checkpoint: Pretrained,
        *,
        label: str,
        device: str = "cpu",
        batch_size: int = 8,
        windows: Windows | None = None,
    ) -> None:
        self.label, self.checkpoint = label, f"hf:{checkpoint.source}"
        self.checkpoint_sha256 = checkpoint.sha256()
        self.tokenizer = ForeignTokenizer(checkpoint)
        if not self.tokenizer.backend.is_fast:
            raise CheckpointError(
                f"hf:{checkpoint.source}: its tokenizer does not say where its tokens are in a "
                "text; put a tokenizer.json beside the weights"
            )
        self._model = checkpoint.load_model("AutoModelForQuestionAnswering", device)
        check_vocabulary(self._model, self.tokenizer, checkpoint)
        self._windows, self._batch_size = windows or Windows(), batch_size
        limit = positions_of(self._model)
        reserved = 2  # RoBERTa counts its positions from 2 on
        self._length = min(self._windows.length, (limit or self._windows.length + 2) - reserved)

    def score(self, requests: Sequence[ScoreRequest]) -> NoReturn:  # noqa: ARG002
        """Refuse: a reader has no probability of an answer."""
        self._refuse()

    def write(
        self,
        prompts: Sequence[Sequence[int]],  # noqa: ARG002 - of the protocol
        options: WriteText,  # noqa: ARG002
    ) -> NoReturn:
        """Refuse: a reader continues no prompt."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            f"{self.label} ({self.checkpoint}) marks answers in a passage: it can be asked for "
            "factoid answers only, not for labels or continued prompts"
        )

    def read(self, passages: Sequence[Passage], num_candidates: int) -> list[Written]:
        """Return the best answers to each question, different texts.

        Raises:
            DataError: A question leaves no room for its context; the message does not quote it.
        """
        best: list[dict[str, tuple[float, str]]] = [{} for _ in passages]
        windows = [
            window
            for number, passage in enumerate(passages)
            if passage.context.strip()
            for window in self._cut(number, passage)
        ]
        order = sorted(windows, key=lambda window: -len(window.ids))
        for begin in range(0, len(order), self._batch_size):
            batch = order[begin : begin + self._batch_size]
            for window, start, end in zip(batch, *self._logits(batch), strict=True):
                context = passages[window.passage].context
                found = best[window.passage]
                for score, text in self._spans(window, start, end, context, num_candidates):
                    key = " ".join(text.casefold().split())
                    if key not in found or score > found[key][0]:
                        found[key] = (score, text)
        return [_written(found, num_candidates) for found in best]

    def _cut(self, number: int, passage: Passage) -> Iterator[_Window]:
        tokenizer = self.tokenizer
        around = tokenizer.backend.num_special_tokens_to_add(pair=True)
        question = len(tokenizer.encode_batch([passage.question])[0])
        if question + around + self._windows.overlap >= self._length:
            raise DataError(
                f"{self.label}: a question has {question} tokens; with windows of {self._length} "
                f"that share {self._windows.overlap} it leaves no room for its context"
            )
        found = tokenizer.backend(
            passage.question,
            passage.context,
            truncation="only_second",
            max_length=self._length,
            stride=self._windows.overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
            split_special_tokens=True,
            padding=False,
        )
        for n, ids in enumerate(found["input_ids"]):
            places = zip(found.sequence_ids(n), found["offset_mapping"][n], strict=True)
            offsets = [tuple(place) if sequence == 1 else None for sequence, place in places]
            yield _Window(number, ids, found["token_type_ids"][n], offsets)

    @torch.inference_mode()
    def _logits(self, windows: Sequence[_Window]) -> tuple[Tensor, Tensor]:
        """Return start and end logits (windows, longest)."""
        device = self._model.device
        ids, mask = fill_right([window.ids for window in windows], device)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.tokenizer.backend.model_input_names:
            inputs["token_type_ids"], _ = fill_right([w.segments for w in windows], device)
        found = self._model(**inputs)
        return found.start_logits.double().cpu(), found.end_logits.double().cpu()

    def _spans(
        self, window: _Window, start: Tensor, end: Tensor, context: str, num_candidates: int
    ) -> Iterator[tuple[float, str]]:
        """Yield the best spans of a window, until there are enough different texts."""
        places = [n for n, offsets in enumerate(window.offsets) if offsets is not None]
        if not places:
            return
        first, length = places[0], places[-1] + 1 - places[0]
        begins, ends = start[first : first + length], end[first : first + length]
        sums = begins.unsqueeze(1) + ends.unsqueeze(0)
        is_span = torch.ones_like(sums, dtype=torch.bool).triu().tril(self._windows.max_answer - 1)
        values, order = sums.masked_fill(~is_span, -torch.inf).flatten().sort(descending=True)
        texts: set[str] = set()
        for value, flat in zip(values.tolist(), order.tolist(), strict=True):
            if value == -torch.inf or len(texts) == num_candidates:
                return
            opening, closing = (window.offsets[first + n] for n in divmod(flat, length))
            assert opening is not None
            assert closing is not None
            text = context[opening[0] : closing[1]].strip()
            key = " ".join(text.casefold().split())
            if text and key not in texts:
                texts.add(key)
                yield value, text


def _written(found: dict[str, tuple[float, str]], num_candidates: int) -> Written:
    ranked = sorted(found.values(), key=lambda pair: -pair[0])
    return Written([text for _, text in ranked[:num_candidates]] or [""], "eos")
