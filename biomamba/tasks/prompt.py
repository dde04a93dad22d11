"""Items of a task, and the one way from an item to the token ids of its prompt."""

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from biomamba.runtime.errors import ConfigError, DataError

# -------------------------------------------------------------------------------------------------
# One question or note of a task, and what a file of them gave.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that a model answers.

    Attributes:
        id: Unique within the task, over all splits.
        parts: The texts that the prompt of the task names, as `question` and `context`.
        target: The text to be produced, without a leading space; fine-tuning learns it.
        label: One of the labels of the task; None where the answer is a free text.
        references: What an answer is compared with: groups of texts that mean the same. A label
            task needs none.
        options: Answers to choose from, differing from item to item; empty in other tasks.
        option_parts: The parts that each option replaces, where the options are in the prompt and
            the target, the same for all, follows them; empty where the options are the answers.
        group: Items of one group stay in one split and are drawn together by a bootstrap, as the
            notes of one patient; None: the item is a group of its own.
        facts: Short values that are not texts of the item, as the year; for slices of a table.
    """

    id: str
    parts: Mapping[str, str]
    target: str
    label: str | None = None
    references: Sequence[Sequence[str]] = ()
    options: Sequence[str] = ()
    option_parts: Sequence[Mapping[str, str]] = ()
    group: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """Name of what a bootstrap draws."""
        return self.id if self.group is None else self.group


@dataclass(frozen=True)
class Items:
    """The items of one split, and how many rows could not become one, by reason."""

    items: Sequence[Item]
    rejects: Counter[str] = field(default_factory=Counter)


# -------------------------------------------------------------------------------------------------
# The one way from an item to the ids that a model reads, in fine-tuning and in evaluation.
#
# A prompt that is too long loses text from the parts that may shrink, in the order in which they
# are named, and never from its other parts, its instruction or its cue.
# -------------------------------------------------------------------------------------------------

CUTS = ("left", "middle", "right")
_GAP = " ... "  # marks where the middle of a part was left out


class PromptTooLongError(DataError):
    """A prompt does not fit even without the parts that may shrink."""


class PromptTokenizer(Protocol):
    """What a prompt needs of a tokenizer."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt that fits.

    Attributes:
        text: The prompt.
        ids: Its ids, without any special token.
        num_cut_tokens: Tokens of the item that it had to leave out.
    """

    text: str
    ids: Sequence[int]
    num_cut_tokens: int


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """How an item of a task is put to a model.

    Attributes:
        name: Name with version, written beside every result.
        template: Text with {part} for the parts of an item; it ends with the cue of the answer.
        target: Text with {target}; follows the prompt in fine-tuning and for every label scored.
        shrink: Which parts give way when the prompt is too long, and where they lose text: `left`,
            `middle` or `right`.
        empty: What stands for a part without text.
        open_end: The template ends with a part whose text the answer continues, instead of a cue.

    Raises:
        ConfigError: The template lacks a cue or the text to continue, or `shrink` names a part or a
            way that is not known.
    """

    name: str
    template: str
    target: str = " {target}"
    shrink: Mapping[str, str]
    empty: str = "N/A"
    open_end: bool = False

    def __post_init__(self) -> None:
        unnamed = [name for name in self.parts if not name.isidentifier()]
        if unnamed:
            raise ConfigError(
                f"template of prompt {self.name} has fields {unnamed} that are no names; write "
                "{{ and }} for braces"
            )
        odd = sorted(set(self.shrink) - set(self.parts))
        if odd:
            raise ConfigError(f"shrink of prompt {self.name} names {odd}; its parts: {self.parts}")
        wrong = {part: cut for part, cut in self.shrink.items() if cut not in CUTS}
        if wrong:
            raise ConfigError(
                f"shrink of prompt {self.name} is {wrong}; allowed: {', '.join(CUTS)}"
            )
        if self.open_end:
            self._check_open_end()
        elif self.template.endswith("}") or self.template != self.template.rstrip():
            raise ConfigError(f"template of prompt {self.name} must end with a cue and no space")
        if _names(self.target) != ["target"]:
            raise ConfigError(f"target of prompt {self.name} must hold {{target}} alone")

    def _check_open_end(self) -> None:
        last = self.parts[-1] if self.parts else ""
        if not self.template.endswith(f"{{{last}}}") or self.shrink.get(last, "left") != "left":
            raise ConfigError(
                f"template of prompt {self.name} must end with a part, which may lose text at its "
                "left only, because open_end lets the answer continue it"
            )

    @property
    def parts(self) -> list[str]:
        """Names of the parts in their order."""
        return _names(self.template)

    @property
    def fingerprint(self) -> str:
        """sha256 over everything that decides the ids."""
        settings = (self.template, self.target, tuple(self.shrink.items()), self.empty)
        return sha256(repr(settings).encode()).hexdigest()

    def render(self, parts: Mapping[str, str]) -> str:
        """Return the prompt of whole parts."""
        return self.template.format(
            **{name: parts[name].strip() or self.empty for name in self.parts}
        )

    def answer(self, target: str) -> str:
        """Return what follows the prompt if the target is the answer."""
        return self.target.format(target=target)

    def encode(self, item: Item, tokenizer: PromptTokenizer, max_tokens: int) -> EncodedPrompt:
        """Return the prompt of an item in at most max_tokens ids.

        Raises:
            PromptTooLongError: The prompt does not fit even without the parts that may shrink.
            DataError: The item lacks a part. No message quotes the item.
        """
        missing = sorted(set(self.parts) - set(item.parts))
        if missing:
            raise DataError(f"item {item.id} has no {missing}, which prompt {self.name} needs")
        parts = {name: item.parts[name] for name in self.parts}
        num_cut = 0
        text = self.render(parts)
        ids = tokenizer.encode_batch([text])[0]
        for name, cut in self.shrink.items():
            if len(ids) <= max_tokens:
                break
            parts[name], lost = self._shrink(parts, name, cut, (tokenizer, max_tokens))
            num_cut += lost
            text = self.render(parts)
            ids = tokenizer.encode_batch([text])[0]
        if len(ids) <= max_tokens:
            return EncodedPrompt(text, ids, num_cut)
        raise PromptTooLongError(
            f"item {item.id}: prompt {self.name} takes {len(ids)} tokens with {list(self.shrink)} "
            f"cut away, {max_tokens} are allowed: raise the limit or let another part shrink"
        )

    def _shrink(
        self,
        parts: Mapping[str, str],
        name: str,
        cut: str,
        limit: tuple[PromptTokenizer, int],
    ) -> tuple[str, int]:
        """Return the longest shortened text of a part with which the prompt fits, and its loss."""
        tokenizer, max_tokens = limit
        ids = tokenizer.encode_batch([parts[name].strip()])[0]
        # Kept tokens: below `low` is the best known to fit. Nothing is what is left if none does;
        # it is not tried, since what stands for an empty part may be longer than a short text.
        low, high = 1, len(ids) - 1
        best = ""
        while low <= high:
            kept = (low + high) // 2
            text = _cut(ids, kept, cut, tokenizer)
            rendered = self.render({**parts, name: text})
            if len(tokenizer.encode_batch([rendered])[0]) <= max_tokens:
                best, low = text, kept + 1
            else:
                high = kept - 1
        return best, len(ids) - (low - 1)


def _cut(ids: Sequence[int], kept: int, cut: str, tokenizer: PromptTokenizer) -> str:
    """Return the text of `kept` ids of a part."""
    if cut == "left":
        return _clean(tokenizer.decode(ids[len(ids) - kept :]))
    if cut == "right":
        return _clean(tokenizer.decode(ids[:kept]))
    head = (kept + 1) // 2
    tail = tokenizer.decode(ids[len(ids) - (kept - head) :]) if kept > head else ""
    return _clean(tokenizer.decode(ids[:head])) + _GAP + _clean(tail)


def _clean(text: str) -> str:
    """Drop the halves of characters that a cut left at the ends."""
    return text.strip("\ufffd").strip()


def _names(template: str) -> list[str]:
    found = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    return list(dict.fromkeys(found))
