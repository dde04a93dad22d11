"""MTS-Dialog: a section of a note is written from a short dialogue.

Source: Ben Abacha et al., EACL 2023; files of github.com/abachaa/MTS-Dialog.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from biomamba.data.document import Reject
from biomamba.tasks.dialogue_rows import DialogueTask
from biomamba.tasks.item import Item

# What the headers of the files stand for, as their authors tell.
SECTIONS = MappingProxyType(
    {
        "FAM/SOCHX": "family history and social history",
        "GENHX": "history of present illness",
        "PASTMEDICALHX": "past medical history",
        "CC": "chief complaint",
        "PASTSURGICAL": "past surgical history",
        "ALLERGY": "allergies",
        "ROS": "review of systems",
        "MEDICATIONS": "medications",
        "ASSESSMENT": "assessment",
        "EXAM": "exam",
        "DIAGNOSIS": "diagnosis",
        "DISPOSITION": "disposition",
        "PLAN": "plan",
        "EDCOURSE": "emergency department course",
        "IMMUNIZATIONS": "immunizations",
        "IMAGING": "imaging",
        "GYNHX": "gynecologic history",
        "PROCEDURES": "procedures",
        "OTHER_HISTORY": "other history",
        "LABS": "labs",
    }
)


@dataclass(frozen=True, kw_only=True)
class MtsDialog(DialogueTask):
    """The text of a section whose header is given, by the official files.

    The ids of the files begin at 0 in each, so an item is named by file and id. Parts: `dialogue`,
    `section` (the header in words). Facts: `section_header` and `file`.
    """

    @property
    def has_headings(self) -> bool:
        """A target is the text of one section, without its heading."""
        return False

    @property
    def columns(self) -> Sequence[str]:
        """Columns of the official files."""
        return ("ID", "section_header", "section_text", "dialogue")

    def _item(self, row: Mapping[str, str]) -> Item | Reject:
        file = row["where"].partition(" ")[0]
        number, header = row["ID"].strip(), row["section_header"].strip()
        if not number:
            return Reject("no ID", row["where"], is_damaged=True)
        if header not in SECTIONS:
            return Reject("unknown section_header", row["where"], is_damaged=True)
        dialogue, text = _lines(row["dialogue"]), _lines(row["section_text"])
        if not dialogue or not text:
            return Reject("empty dialogue" if not dialogue else "empty section_text", row["where"])
        return Item(
            id=f"{file.split('.')[0]}-{number}",
            parts={"dialogue": dialogue, "section": SECTIONS[header]},
            target=text,
            references=[[text]],
            facts={"section_header": header, "file": file},
        )


def _lines(text: str) -> str:
    """Return a text with one kind of line break and without space around its lines."""
    return "\n".join(line.strip() for line in text.strip().splitlines())
