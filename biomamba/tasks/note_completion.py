"""Note completion: the rest of a clinical note is written from its beginning."""

from collections.abc import Mapping
from dataclasses import dataclass

from biomamba.data.document import Document, Reject
from biomamba.runtime.numbers import check_number, check_whole
from biomamba.tasks.item import Item
from biomamba.tasks.note_task import NoteTask


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
