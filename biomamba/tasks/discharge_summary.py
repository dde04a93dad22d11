"""Discharge summaries: the sections of the discharge are written from those of the admission."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from biomamba.data.document import Document, Reject
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.clinical_sections import STYLES, ClinicalSections, Section, without_references
from biomamba.tasks.item import Item
from biomamba.tasks.note_task import NoteTask
from biomamba.tasks.release_sections import ReleaseSections


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
