"""What the tasks of BioASQ share: their files and their splits."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from biomamba.data.document import Reject, SplitRule, document_key
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_whole
from biomamba.tasks.bioasq_questions import Question, read_questions
from biomamba.tasks.item import Item, Items
from biomamba.tasks.prompt import Prompt
from biomamba.tasks.task import Task, check_access, check_training_split
from biomamba.tasks.task_files import file_hashes, named_files
from biomamba.tasks.task_rows import MAX_BAD_FRACTION, check_bad_fraction


@dataclass(frozen=True, kw_only=True)
class BioASQTask(Task):
    """The questions of one type; those of test_files are the test split.

    Of train_files, questions that are in test_files under another id are left out, and a hash of
    the id decides which are `val`; the same question under several ids stays in one split. Case,
    punctuation, white space and full-width forms do not make another question.

    Attributes:
        train_files: Training or golden files of any years; `*` in a name stands for all that match.
        test_files: Golden files of the year or batch that is tested.
        val_permille: Thousandths of the ids that go to `val`.
        max_bad_fraction: A split with more damaged questions than this is refused.
    """

    question_type: ClassVar[str]

    train_files: Sequence[str]
    test_files: Sequence[str]
    prompt: Prompt
    val_permille: int = 100
    access: str = "open"
    max_bad_fraction: float = MAX_BAD_FRACTION

    def __post_init__(self) -> None:
        check_access(self.access)
        check_bad_fraction(self.max_bad_fraction, self.name)
        if not self.train_files and not self.test_files:
            raise ConfigError(f"train_files and test_files of {self.name} are empty; name some")
        check_whole("val_permille", self.val_permille, at_least=0, at_most=999)

    @property
    def files(self) -> Mapping[str, str]:
        """sha256 of all files."""
        return file_hashes([*_paths(self.train_files), *_paths(self.test_files)])

    def split_files(self, split: str) -> Mapping[str, str]:
        """Return sha256 of the files of the questions of a split."""
        return file_hashes(_paths(self.test_files if split == "test" else self.train_files))

    def split_rule(self, split: str) -> str:
        """Return what else decides which questions of the files are in a split."""
        return "" if split == "test" else f"val_permille {self.val_permille}"

    def items(self, split: str) -> Items:
        """Return `train` or `val`.

        Raises:
            DataError: A file is in no known layout, or a question is in test_files too.
        """
        check_training_split(split)
        questions, rejects = self._read(self.train_files)
        tested, _ = self._read(self.test_files)
        _refuse_shared(questions, tested)
        tested_keys = {question.key for question in tested}
        first_id: dict[str, str] = {}
        for question in sorted(questions, key=lambda question: question.id):
            first_id.setdefault(question.key, question.id)
        rule = SplitRule(val_permille=self.val_permille, test_permille=0)
        chosen = []
        for question in questions:
            if question.key in tested_keys:
                rejects["question of the test files"] += 1
            elif rule.split_of(document_key(first_id[question.key])) == split:
                chosen.append(question)
        return self._items(chosen, rejects)

    def held_out(self) -> Items:
        """Return the questions of test_files."""
        if not self.test_files:
            raise ConfigError(f"test_files of {self.name} is empty: it has no test split")
        return self._items(*self._read(self.test_files))

    @abstractmethod
    def item_of(self, question: Question) -> Item | Reject:
        """Turn a question into an item."""

    def _read(self, entries: Sequence[str]) -> tuple[list[Question], Counter[str]]:
        return read_questions(_paths(entries), self.question_type, self.max_bad_fraction)

    def _items(self, questions: Sequence[Question], rejects: Counter[str]) -> Items:
        items = []
        for question in questions:
            item = self.item_of(question)
            if isinstance(item, Reject):
                rejects[item.reason] += 1
            else:
                items.append(item)
        return Items(items, rejects)


def parts_of(question: Question) -> dict[str, str]:
    """Return the parts of a prompt: the question, and its snippets between empty lines."""
    return {"question": question.body, "context": "\n\n".join(question.snippets)}


def _paths(entries: Sequence[str]) -> list[Path]:
    return named_files(entries, [".json"])


def _refuse_shared(questions: Sequence[Question], tested: Sequence[Question]) -> None:
    places = {question.id: question.file for question in tested}
    shared = [question for question in questions if question.id in places]
    if shared:
        raise DataError(
            f"{len(shared)} questions are in train_files and test_files, the first is "
            f"{shared[0].id} in {shared[0].file} and {places[shared[0].id]}: name other files"
        )
