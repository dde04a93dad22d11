"""Tasks of doctor-patient dialogues: MTS-Dialog and ACI-Bench."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from biomamba.data.cleaning.ngrams import match_key
from biomamba.data.document import SPLITS, Reject
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.clinical_notes import WritingTask
from biomamba.tasks.prompt import Item, Items
from biomamba.tasks.task import (
    check_apart,
    check_training_split,
    collect,
    file_hashes,
    named_files,
    rows_of,
)

# -------------------------------------------------------------------------------------------------
# Tasks of dialogues: tables whose official files are the splits, one file or several each.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DialogueTask(WritingTask):
    """A text is written from a dialogue of doctor and patient.

    A dialogue whose text is also in a later split (train, val, test) is left out
    and counted; case, punctuation and white space make no difference.

    Attributes:
        train_files: Official training files.
        val_files: Official validation files.
        test_files: Official test files; figures are over all that are named.
    """

    train_files: Sequence[str]
    val_files: Sequence[str]
    test_files: Sequence[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("train_files", "val_files", "test_files"):
            if not getattr(self, key):
                raise ConfigError(f"{key} of {self.name} is empty; name at least one file")

    def items(self, split: str) -> Items:
        """Return the items of `train` or `val`."""
        check_training_split(split)
        return self._read(split)

    def held_out(self) -> Items:
        """Return the items of the test files.

        Raises:
            DataError: One of them is in the training or validation files too.
        """
        test = self._read("test")
        parts = [("train", self._read("train")), ("val", self._read("val")), ("test", test)]
        check_apart(parts)
        return test

    @property
    def files(self) -> Mapping[str, str]:
        """sha256 of every file by its name; `absent` for a test file, which training can spare."""
        present = self._present("test")
        absent = [Path(file).name for file in self.test_files if file not in present]
        named = [*self.train_files, *self.val_files, *present]
        found = file_hashes(named_files(named, (".csv", ".csv.gz")))
        return found | dict.fromkeys(absent, "absent")

    def split_files(self, split: str) -> Mapping[str, str]:
        """Return sha256 of the files of a split; test files that are absent are left out."""
        return file_hashes(named_files(self._present(split), (".csv", ".csv.gz")))

    def _present(self, split: str) -> Sequence[str]:
        """Return the files of a split; training can spare those of the test."""
        if split != "test":
            return self._files_of[split]
        return [file for file in self.test_files if _is_present(file)]

    @property
    def _files_of(self) -> Mapping[str, Sequence[str]]:
        return {"train": self.train_files, "val": self.val_files, "test": self.test_files}

    def _read(self, split: str) -> Items:
        found = self._collected(split, self._files_of[split])
        later = [each for each in SPLITS[SPLITS.index(split) + 1 :] if self._present(each)]
        if not later:
            return found
        held_out = [
            item for each in later for item in self._collected(each, self._present(each)).items
        ]
        keys = {_key(item) for item in held_out}
        ids = {item.id for item in held_out}  # the same id in two splits is an error, not a repeat
        kept = [item for item in found.items if item.id in ids or _key(item) not in keys]
        if len(kept) < len(found.items):
            found.rejects["dialogue of a split held out"] += len(found.items) - len(kept)
        return Items(kept, found.rejects)

    def _collected(self, split: str, files: Sequence[str]) -> Items:
        where = f"{self.name} {split}"
        return collect(self._items(files), where, max_bad_fraction=self.max_bad_fraction)

    def _items(self, files: Sequence[str]) -> Iterator[Item | Reject]:
        for row in rows_of(files, self.columns):
            yield row if isinstance(row, Reject) else self._item(row)

    @property
    @abstractmethod
    def columns(self) -> Sequence[str]:
        """Columns that a file must have."""

    @abstractmethod
    def _item(self, row: Mapping[str, str]) -> Item | Reject:
        """Return the item of a row."""


def _is_present(file: str) -> bool:
    path = Path(file)
    return any(path.parent.glob(path.name)) if "*" in path.name else path.is_file()


def _key(item: Item) -> str:
    """Return what is equal for the same dialogue and text, whatever its case and punctuation."""
    return f"{match_key(item.parts['dialogue'])} {match_key(item.target)}"


# -------------------------------------------------------------------------------------------------
# MTS-Dialog: a section of a note is written from a short dialogue.
#
# Source: Ben Abacha et al., EACL 2023; files of github.com/abachaa/MTS-Dialog.
# -------------------------------------------------------------------------------------------------

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

    The ids of the files start at 0 in each, so an item is named by file and id. Parts: `dialogue`,
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


# -------------------------------------------------------------------------------------------------
# ACI-Bench: the note of a visit is written from the dialogue of doctor and patient.
#
# Source: Yim et al., Scientific Data 10, 586 (2023); files of github.com/wyim/aci-bench.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AciBench(DialogueTask):
    """Whole notes from whole dialogues, by the official files of the challenge.

    Parts: `dialogue`. Facts: `dataset` (how the dialogue was recorded) and `file`.
    """

    @property
    def columns(self) -> Sequence[str]:
        """Columns of the official files."""
        return ("dataset", "encounter_id", "dialogue", "note")

    def _item(self, row: Mapping[str, str]) -> Item | Reject:
        name = row["encounter_id"].strip()
        if not name:
            return Reject("no encounter_id", row["where"], is_damaged=True)
        dialogue, note = row["dialogue"].strip(), row["note"].strip()
        if not dialogue or not note:
            return Reject("empty dialogue" if not dialogue else "empty note", name)
        return Item(
            id=name,
            parts={"dialogue": dialogue},
            target=note,
            references=[[note]],
            facts={"dataset": row["dataset"], "file": row["where"].partition(" ")[0]},
        )
