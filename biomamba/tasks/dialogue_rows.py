"""Tasks of dialogues: tables whose official files are the splits, one file or several each."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from biomamba.data.cleaning.words import match_key
from biomamba.data.document import SPLITS, Reject
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.item import Item, Items
from biomamba.tasks.task import check_training_split
from biomamba.tasks.task_files import file_hashes, named_files
from biomamba.tasks.task_rows import check_apart, collect, rows_of
from biomamba.tasks.writing import WritingTask


@dataclass(frozen=True, kw_only=True)
class DialogueTask(WritingTask):
    """A text is written from a dialogue of doctor and patient.

    A dialogue that stands with the same text in a later split too (train, val, test) is left out
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
