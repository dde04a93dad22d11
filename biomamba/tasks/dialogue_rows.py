"""Tasks of dialogues: tables whose official files are the splits, one file or several each."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from biomamba.data.document import Reject
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.item import Item, Items
from biomamba.tasks.task import check_training_split
from biomamba.tasks.task_files import file_hashes, named_files
from biomamba.tasks.task_rows import check_apart, collect, rows_of
from biomamba.tasks.writing import WritingTask


@dataclass(frozen=True, kw_only=True)
class DialogueTask(WritingTask):
    """A text is written from a dialogue of doctor and patient.

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
        present = [file for file in self.test_files if "*" in file or Path(file).is_file()]
        absent = [Path(file).name for file in self.test_files if file not in present]
        named = [*self.train_files, *self.val_files, *present]
        found = file_hashes(named_files(named, (".csv", ".csv.gz")))
        return found | dict.fromkeys(absent, "absent")

    def _read(self, split: str) -> Items:
        files = {"train": self.train_files, "val": self.val_files, "test": self.test_files}[split]
        return collect(self._items(files), f"{self.name} {split}")

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
