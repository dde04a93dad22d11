"""Tasks made of whole notes: which notes a split has, and how many.

The split is that of the hash of the patient, so all notes of a patient are in one split. A text
that stands in two splits stays in the held-out one only, and one that comes twice in a split stays
once: templated reports of different patients can be the same to the letter. Case, spacing and
punctuation make no difference.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from biomamba.data.cleaning.words import match_key
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import SPLITS, Document, Reject, SplitRule, document_key
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_whole
from biomamba.tasks.item import Item, Items
from biomamba.tasks.task import check_training_split
from biomamba.tasks.task_rows import collect
from biomamba.tasks.writing import AuditedItem, WritingTask


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
