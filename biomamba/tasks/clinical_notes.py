"""Tasks whose answer is a clinical text: note completion and discharge summaries."""

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

from biomamba.data.cleaning.ngrams import match_key
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import SPLITS, Document, Reject, SplitRule, document_key
from biomamba.metrics import clinical_text, overlap
from biomamba.metrics.measure import Measure
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_number, check_whole
from biomamba.tasks.clinical_sections import (
    STYLES,
    ClinicalSections,
    ReleaseSections,
    Section,
    headings_of,
    without_references,
)
from biomamba.tasks.prompt import Item, Items, Prompt
from biomamba.tasks.task import (
    EMPTY,
    MAX_BAD_FRACTION,
    Prediction,
    Task,
    WriteText,
    check_access,
    check_bad_fraction,
    check_training_split,
    collect,
)

# -------------------------------------------------------------------------------------------------
# Tasks whose answer is a clinical text, and the figures that all of them have.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AuditedItem:
    """An item, and the texts of its note that its prompt must not hold, by name."""

    item: Item
    withheld: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class WritingTask(Task):
    """A text is written from the parts of the prompt and compared with references.

    Attributes:
        name: Name of the task in tables and files.
        protocol: Which published protocol the figures follow.
        prompt: How an item is put to a model.
        access: `open` or `restricted`.
        max_new_tokens: Longest answer.
        stop: Texts that end an answer.
        max_bad_fraction: A split with more damaged rows than this is refused.
    """

    name: str
    protocol: str
    prompt: Prompt
    access: str
    max_new_tokens: int
    stop: Sequence[str] = field(default=())
    max_bad_fraction: float = MAX_BAD_FRACTION

    def __post_init__(self) -> None:
        check_access(self.access)
        check_whole(f"max_new_tokens of {self.name}", self.max_new_tokens)
        check_bad_fraction(self.max_bad_fraction, self.name)

    @property
    def has_headings(self) -> bool:
        """Whether targets are notes with headings rather than single sections."""
        return True

    @property
    def withheld_headings(self) -> Sequence[str]:
        """Headings whose sections a prompt must not hold; empty if the task knows none."""
        return ()

    @property
    def answer(self) -> WriteText:
        """A text of so many tokens."""
        return WriteText(self.max_new_tokens, tuple(self.stop))

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return overlap with the references and what is wrong beside the source; ROUGE-1 first."""
        outputs = [_output(item, given) for item, given in zip(items, predictions, strict=True)]
        references = [references_of(item) for item in items]
        sources = [self.source(item) for item in items]
        figures = writing_measures(outputs, references, sources)
        return [*figures, *([section_figure(outputs, references)] if self.has_headings else [])]

    def signatures(self, items: Sequence[Item]) -> Mapping[str, str]:
        """Return by measure what identifies its computation, as sacrebleu's signature."""
        return overlap.signatures([references_of(item) for item in items])

    def source(self, item: Item) -> str:
        """Return what an answer may draw upon: the parts of the prompt, whole."""
        return "\n".join(item.parts[name] for name in self.prompt.parts)

    def audited(self, items: Sequence[Item]) -> Iterator[AuditedItem]:
        """Iterate over items of this task with what their prompts must not hold."""
        for item in items:
            yield AuditedItem(item, {"reference": "\n".join(references_of(item))})


def references_of(item: Item) -> list[str]:
    """Return the texts that an answer is compared with; the target where none are named."""
    return [text for group in item.references for text in group] or [item.target]


def writing_measures(
    outputs: Sequence[str], references: Sequence[Sequence[str]], sources: Sequence[str]
) -> list[Measure]:
    """Return the figures of any written text.

    What the sources do not support is told of the first references too: nobody can be expected to
    do better than they do.
    """
    support = _support_measures([texts[0] for texts in references], sources)
    return [
        *overlap.rouge(outputs, references),
        overlap.bleu(outputs, references),
        *_support_measures(outputs, sources),
        *clinical_text.copying(outputs, sources),
        *clinical_text.lengths(outputs, references),
        *(replace(m, name=f"reference_{m.name}", higher_is_better=None) for m in support),
    ]


def _support_measures(outputs: Sequence[str], sources: Sequence[str]) -> list[Measure]:
    return [
        clinical_text.unsupported_numbers(outputs, sources),
        clinical_text.unsupported_doses(outputs, sources),
        clinical_text.negation_flips(outputs, sources),
    ]


def section_figure(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Measure:
    """Return the share of the headings of the first references that the outputs have."""
    wanted = [headings_of(texts[0]) for texts in references]
    return clinical_text.section_coverage([headings_of(output) for output in outputs], wanted)


def _output(item: Item, prediction: Prediction) -> str:
    if prediction.id != item.id:
        raise ValueError(f"prediction {prediction.id} is in the place of item {item.id}")
    return "" if prediction.status == EMPTY else prediction.text


# -------------------------------------------------------------------------------------------------
# Tasks made of whole notes: which notes a split has, and how many.
#
# The split is that of the hash of the patient, so all notes of a patient are in one split. A text
# that is in two splits stays in the held-out one only, and one that comes twice in a split stays
# once: templated reports of different patients can be the same to the letter. Case, spacing and
# punctuation make no difference.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoteTask(WritingTask):
    """A part of a note is written from another part of it.

    Attributes:
        notes: Where the notes come from; a group is a patient.
        split: Which share of the patients is held out.
        max_train_items: Most items of the split; those with the smallest keys. None keeps all.
        max_val_items: The same of `val`.
        max_test_items: The same of `test`.
    """

    notes: Corpus
    split: SplitRule
    max_train_items: int | None = None
    max_val_items: int | None = None
    max_test_items: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.access == "open" and "PhysioNet" in self.notes.licence:
            raise ConfigError(
                f"access of {self.name} is open, but its notes are under {self.notes.licence!r}; "
                "set access=restricted"
            )
        for split, limit in self._limits.items():
            check_whole(f"max_{split}_items of {self.name}", limit, optional=True)

    @property
    def _limits(self) -> dict[str, int | None]:
        limits = (self.max_train_items, self.max_val_items, self.max_test_items)
        return dict(zip(SPLITS, limits, strict=True))

    def items(self, split: str) -> Items:
        """Return the items of `train` or `val`."""
        check_training_split(split)
        return self._read(split)

    def held_out(self) -> Items:
        """Return the items of the held-out patients."""
        return self._read("test")

    @property
    def files(self) -> Mapping[str, str]:
        """sha256 of every file by its name."""
        return {
            shard.name: shard.fingerprint().removeprefix("sha256:") for shard in self.notes.shards()
        }

    def split_files(self, split: str) -> Mapping[str, str]:  # noqa: ARG002 - patients are split
        """Return sha256 of every file: each holds notes of all splits."""
        return self.files

    def split_rule(self, split: str) -> str:  # noqa: ARG002 - one rule makes all splits
        """Return the shares of the patients."""
        return f"val {self.split.val_permille}, test {self.split.test_permille} permille"

    def audited(self, items: Sequence[Item]) -> Iterator[AuditedItem]:
        """Iterate over items of this task, in the order of their notes."""
        wanted = {item.id for item in items}
        for note in self._documents():
            if isinstance(note, Document) and note.id in wanted:
                wanted.remove(note.id)
                item = self._item(note)
                if isinstance(item, Item):
                    yield AuditedItem(item, self._withheld(note))

    def _read(self, split: str) -> Items:
        where, limit = f"{self.name} {split}", self._limits[split]
        return collect(self._found(split), where, limit, self.max_bad_fraction)

    def _found(self, split: str) -> Iterator[Item | Reject]:
        rank = SPLITS.index(split)
        seen: set[int] = set()
        for note in self._documents():
            if isinstance(note, Reject):
                yield note
            elif self._split_of(note) == rank:
                text = _text_key(note.text)
                if self._homes[text] > rank:
                    yield Reject("text of a note in a split held out", note.id)
                elif text in seen:
                    yield Reject("text of another note", note.id)
                else:
                    seen.add(text)
                    yield self._item(note)

    @cached_property
    def _homes(self) -> dict[int, int]:
        """The last of the splits that hold a text, by the key of the text."""
        homes: dict[int, int] = {}
        for note in self._documents():
            if isinstance(note, Document):
                text = _text_key(note.text)
                homes[text] = max(homes.get(text, 0), self._split_of(note))
        return homes

    def _split_of(self, note: Document) -> int:
        group = note.id if note.group is None else note.group
        return SPLITS.index(self.split.split_of(document_key(group)))

    def _documents(self) -> Iterator[Document | Reject]:
        for shard in self.notes.shards():
            yield from self.notes.documents(shard)

    @abstractmethod
    def _item(self, note: Document) -> Item | Reject:
        """Return the item of a note, or why it gives none."""

    @abstractmethod
    def _withheld(self, note: Document) -> Mapping[str, str]:
        """Return by name the texts of a note that its prompt must not hold."""


def _text_key(text: str) -> int:
    return document_key(match_key(text))


# -------------------------------------------------------------------------------------------------
# Note completion: the rest of a clinical note is written from its beginning.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoteCompletion(NoteTask):
    """The note is cut once, between two words; outputs are compared with the whole rest.

    Parts: `prefix`.

    Attributes:
        prefix_ratio: Share of the characters that the prefix has at most.
        max_prefix_chars: And this many at most; None sets no limit.
        max_target_chars: Characters of the rest that fine-tuning learns; None for all.
        min_prefix_chars: Notes with a shorter prefix are left out.
        min_target_chars: Notes with a shorter rest are left out.
    """

    prefix_ratio: float
    max_prefix_chars: int | None
    max_target_chars: int | None
    min_prefix_chars: int
    min_target_chars: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(f"prefix_ratio of {self.name}", self.prefix_ratio, above=0, below=1)
        for name in ("min_prefix_chars", "min_target_chars"):
            check_whole(f"{name} of {self.name}", getattr(self, name))
        for name in ("max_prefix_chars", "max_target_chars"):
            check_whole(f"{name} of {self.name}", getattr(self, name), optional=True)

    def _item(self, note: Document) -> Item | Reject:
        prefix, rest = self._parts(note.text)
        if len(prefix) < self.min_prefix_chars:
            return Reject(f"prefix shorter than {self.min_prefix_chars} characters", note.id)
        if len(rest) < self.min_target_chars:
            return Reject(f"rest shorter than {self.min_target_chars} characters", note.id)
        return Item(
            id=note.id,
            parts={"prefix": prefix},
            target=rest[: self.max_target_chars].rstrip(),
            references=[[rest]],
            group=note.group,
        )

    def _withheld(self, note: Document) -> Mapping[str, str]:
        return {"rest": self._parts(note.text)[1]}

    def _parts(self, text: str) -> tuple[str, str]:
        limit = len(text) if self.max_prefix_chars is None else self.max_prefix_chars
        place = between_words(text, min(int(len(text) * self.prefix_ratio), limit))
        return text[:place].rstrip(), text[place:].strip()


def between_words(text: str, place: int) -> int:
    """Return the last place up to `place` that has white space beside it; `place` if none has."""
    for cut in range(place, 0, -1):
        if text[cut - 1].isspace() or text[cut : cut + 1].isspace():
            return cut
    return place


# -------------------------------------------------------------------------------------------------
# Discharge summaries: the sections of the discharge are written from those of the admission.
# -------------------------------------------------------------------------------------------------


class SectionReader(Protocol):
    """Cuts a note into sections."""

    @property
    def known(self) -> Collection[str]:
        """Names of the sections that can be found."""

    def read(self, text: str) -> list[Section]:
        """Return the sections of a note."""


READERS: Mapping[str, SectionReader] = MappingProxyType(
    {style: ClinicalSections(style=style) for style in STYLES} | {"release": ReleaseSections()}
)


@dataclass(frozen=True, kw_only=True)
class DischargeSummary(NoteTask):
    """Some sections of a note are the context, others the target; no section is both.

    Parts: `context`. Sections keep their headings, their order and their repeats; words in the
    context that refer to sections of the discharge, as "see hospital course", are taken out.
    Outputs are compared with the whole target sections.

    Attributes:
        sections: How a note is cut: a style of ClinicalSections, or `release` (ReleaseSections).
        context: Names of the sections that the prompt may hold.
        target: Names of the sections that are to be written.
        audit_sections: How the audit of leakage cuts a note; a style of ClinicalSections.
        withheld: Names of its sections that no prompt may hold; None stands for `target`.
        max_context_chars: Characters of the context in the prompt; None for all.
        max_target_chars: Characters of the target that fine-tuning learns; None for all.
        min_context_chars: Notes with a shorter context are left out.
        min_target_chars: Notes with a shorter target are left out.
    """

    sections: str
    context: Sequence[str]
    target: Sequence[str]
    audit_sections: str
    withheld: Sequence[str] | None = None
    max_context_chars: int | None = None
    max_target_chars: int | None = None
    min_context_chars: int = 1
    min_target_chars: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, name, allowed in (
            ("sections", self.sections, [*READERS]),
            ("audit_sections", self.audit_sections, STYLES),
        ):
            if name not in allowed:
                raise ConfigError(f"{key} of {self.name} is {name!r}; use {', '.join(allowed)}")
        self._check_names("context", self.context, READERS[self.sections].known)
        self._check_names("target", self.target, READERS[self.sections].known)
        self._check_names("withheld", self._withheld_names, READERS[self.audit_sections].known)
        both = sorted(set(self.context) & set(self.target))
        if both:
            raise ConfigError(f"{both} are in context and in target of {self.name}; take one out")

    def _check_names(self, key: str, names: Sequence[str], known: Collection[str]) -> None:
        unknown = sorted(set(names) - set(known))
        if unknown or not names:
            raise ConfigError(
                f"{key} of {self.name} names the sections {unknown or 'of nothing'}; "
                f"known: {', '.join(sorted(known))}"
            )

    @property
    def _withheld_names(self) -> Sequence[str]:
        return self.target if self.withheld is None else self.withheld

    @property
    def withheld_headings(self) -> Sequence[str]:
        """Names of the sections that no prompt may hold."""
        return self._withheld_names

    def _item(self, note: Document) -> Item | Reject:
        sections = [each for each in READERS[self.sections].read(note.text) if each.body.strip()]
        context, target = (_joined(sections, names) for names in (self.context, self.target))
        if self.sections in STYLES:  # the release leaves references where they are
            context = without_references(context).strip()
        for kind, text, least in (
            ("context", context, self.min_context_chars),
            ("target", target, self.min_target_chars),
        ):
            if not text:
                return Reject(f"no section of the {kind}", note.id)
            if len(text[: self._longest(kind)]) < least:
                return Reject(f"{kind} shorter than {least} characters", note.id)
        return Item(
            id=note.id,
            parts={"context": context[: self.max_context_chars].rstrip()},
            target=target[: self.max_target_chars].rstrip(),
            references=[[target]],
            group=note.group,
        )

    def _withheld(self, note: Document) -> Mapping[str, str]:
        withheld: dict[str, str] = {}
        for each in READERS[self.audit_sections].read(note.text):
            if each.heading in self._withheld_names:
                withheld[each.heading] = f"{withheld.get(each.heading, '')}\n{each.body}".strip()
        return withheld

    def _longest(self, kind: str) -> int | None:
        return self.max_context_chars if kind == "context" else self.max_target_chars


def _joined(sections: Sequence[Section], names: Sequence[str]) -> str:
    return "\n\n".join(each.text.strip() for each in sections if each.heading in names)
