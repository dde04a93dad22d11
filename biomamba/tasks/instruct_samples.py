"""Samples for fine-tuning: prompt, answer and end, of which answer and end are learned.

A sample is stored as any document is, `prompt answer EOD`; its inputs are `EOD prompt answer`.
Evaluation puts the same ids before what it scores, so nothing is learned that is not asked for.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from biomamba.data.document import document_key
from biomamba.data.store.reader import MemorySplit, Supervision
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number, check_whole
from biomamba.tasks.prompt import Item, PromptTooLongError
from biomamba.tasks.task import Task

LONG_TARGETS = ("reject", "cut")


@dataclass(frozen=True, kw_only=True)
class SampleRules:
    """Which items become samples.

    Attributes:
        max_target_tokens: Positions of a row that are kept for the answer and its end; the prompt
            gets the others, however long the answer is: training and evaluation cut it alike.
        long_targets: What becomes of a longer answer: `reject` leaves the item out, `cut` cuts the
            answer at its end; a cut answer does not learn to end there.
        max_reject_ratio: More rejected items of a split than this share are refused.
        max_val_items: Items of a task to validate on, those with the smallest keys; None for all.
    """

    max_target_tokens: int
    long_targets: str = "reject"
    max_reject_ratio: float = 0.01
    max_val_items: int | None = None

    def __post_init__(self) -> None:
        check_whole("max_target_tokens", self.max_target_tokens, at_least=2)  # answer and its end
        if self.long_targets not in LONG_TARGETS:
            raise ConfigError(
                f"long_targets is {self.long_targets!r}; allowed: {', '.join(LONG_TARGETS)}"
            )
        check_number("max_reject_ratio", self.max_reject_ratio, at_least=0, at_most=1)
        check_whole("max_val_items", self.max_val_items, optional=True)

    def max_prompt_tokens(self, seq_len: int) -> int:
        """Return what a row leaves for the prompt.

        Raises:
            ConfigError: Nothing is left.
        """
        if seq_len <= self.max_target_tokens:
            raise ConfigError(
                f"max_target_tokens={self.max_target_tokens} leaves no room for a prompt in rows "
                f"of seq_len={seq_len}"
            )
        return seq_len - self.max_target_tokens


@dataclass(frozen=True)
class Sample:
    """One item as it is learned.

    Attributes:
        id: That of the item.
        label: That of the item.
        unit: What stays in one split: its group, or its id.
        tokens: Prompt, answer and its end.
        num_context: Tokens of the prompt.
        num_bytes: UTF-8 bytes of the answer.
    """

    id: str
    label: str | None
    unit: str
    tokens: Sequence[int]
    num_context: int
    num_bytes: int


@dataclass(frozen=True)
class Samples:
    """The samples of one split of a task, and what became of its items.

    Attributes:
        samples: In the order of the items.
        num_items: Items of the split.
        rejects: Items that are no samples, and rows that are no items, by reason.
        num_shortened_prompts: Samples whose prompt lost text.
        num_cut_targets: Samples whose answer lost its end.
    """

    samples: Sequence[Sample]
    num_items: int = 0
    rejects: Mapping[str, int] = field(default_factory=dict)
    num_shortened_prompts: int = 0
    num_cut_targets: int = 0

    @property
    def labels(self) -> dict[str, int]:
        """How many samples have each label; empty if none has one."""
        found = Counter(sample.label for sample in self.samples if sample.label is not None)
        return dict(sorted(found.items()))

    def description(self) -> dict[str, Any]:
        """Return the counts."""
        counts = {name: value for name, value in vars(self).items() if name != "samples"}
        return {**counts, "num_samples": len(self.samples), "labels": self.labels}

    def split(self, eod_id: int, weights: Mapping[str | None, float]) -> MemorySplit:
        """Return the samples as documents; those of a label that is not weighted count 1."""
        learned = Supervision(
            np.array([sample.num_context for sample in self.samples], dtype=np.int64),
            np.array([weights.get(s.label, 1.0) for s in self.samples], dtype=np.float32),
        )
        return MemorySplit(
            [sample.tokens for sample in self.samples],
            eod_id,
            ids=[sample.id for sample in self.samples],
            num_bytes=[sample.num_bytes for sample in self.samples],
            supervision=learned,
        )


def encode_items(
    task: Task, split: str, tokenizer: Tokenizer, rules: SampleRules, seq_len: int
) -> Samples:
    """Return the samples of `train` or `val` of a task.

    Raises:
        DataError: No sample is left, or more items than `max_reject_ratio` could not become one;
            no text of an item is quoted.
    """
    found = task.items(split)
    chosen = found.items
    if split == "val" and rules.max_val_items is not None:
        chosen = _smallest(chosen, rules.max_val_items)
    encoder = _Encoder(task, tokenizer, rules, rules.max_prompt_tokens(seq_len))
    samples = [sample for item in chosen if (sample := encoder.encode(item)) is not None]
    rejects, num_rejected = encoder.rejects, encoder.rejects.total()
    if num_rejected > rules.max_reject_ratio * len(chosen) or not samples:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in rejects.items())
        raise DataError(
            f"task {task.name}, {split}: {num_rejected} of {len(chosen)} items cannot be learned "
            f"({reasons or 'there are none'}); max_reject_ratio is {rules.max_reject_ratio}. Raise "
            "data.samples.max_target_tokens or data.budget.seq_len, cut long targets with "
            "data.samples.long_targets=cut, or raise data.samples.max_reject_ratio"
        )
    return Samples(
        samples,
        len(chosen),
        dict(found.rejects + rejects),
        encoder.num_shortened_prompts,
        encoder.num_cut_targets,
    )


class _Encoder:
    """Turns items into samples and counts what it could not take or had to cut."""

    def __init__(
        self, task: Task, tokenizer: Tokenizer, rules: SampleRules, max_prompt_tokens: int
    ) -> None:
        self.rejects: Counter[str] = Counter()
        self.num_shortened_prompts = 0
        self.num_cut_targets = 0
        self._task, self._tokenizer, self._rules = task, tokenizer, rules
        self._max_prompt_tokens = max_prompt_tokens

    def encode(self, item: Item) -> Sample | None:
        """Return the sample of an item; None if it is rejected."""
        if not item.target.strip():
            return self._reject("no target")
        answer = self._tokenizer.encode(self._task.prompt.answer(item.target))
        is_long = len(answer) + 1 > self._rules.max_target_tokens
        if is_long and self._rules.long_targets == "reject":
            return self._reject("target too long")
        try:
            prompt = self._task.prompt.encode(item, self._tokenizer, self._max_prompt_tokens)
        except PromptTooLongError:
            return self._reject("prompt too long")
        self.num_shortened_prompts += prompt.num_cut_tokens > 0
        self.num_cut_targets += is_long
        learned = (
            answer[: self._rules.max_target_tokens]
            if is_long
            else [*answer, self._tokenizer.eod_id]
        )
        text = self._tokenizer.decode(learned) if is_long else item.target
        num_bytes = len(text.encode("utf-8", "surrogatepass"))
        tokens = [*prompt.ids, *learned]
        return Sample(item.id, item.label, item.unit, tokens, len(prompt.ids), num_bytes)

    def _reject(self, reason: str) -> Sample | None:
        self.rejects[reason] += 1
        return None


def check_apart(train: Samples, val: Samples, task: str) -> None:
    """Raise DataError if training and validation share an item or a group."""
    shared = {sample.unit for sample in train.samples} & {sample.unit for sample in val.samples}
    if shared:
        raise DataError(
            f"task {task}: {len(shared)} items or groups are in train and in val; the split of a "
            "task must keep groups together"
        )


def _smallest(items: Sequence[Item], count: int) -> Sequence[Item]:
    """Return the items with the smallest keys, in their order: a sample that is stable."""
    kept = set(sorted(document_key(item.id) for item in items)[:count])
    return [item for item in items if document_key(item.id) in kept]
