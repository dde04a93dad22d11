"""BioASQ task B: yes/no, factoid and list questions, their files and splits."""

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from biomamba.data.cleaning import benchmarks as bioasq
from biomamba.data.cleaning.benchmarks import text_list
from biomamba.data.cleaning.ngrams import match_key
from biomamba.data.document import Reject, SplitRule, document_key
from biomamba.metrics.measure import Measure, proportion
from biomamba.metrics.ranking import MAX_CANDIDATES, list_measures, ranking_measures
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_whole
from biomamba.tasks.labels import (
    candidates_of,
    check_cleaning,
    cleaned,
    in_order,
    label_figures,
    one_line,
)
from biomamba.tasks.prompt import Item, Items, Prompt
from biomamba.tasks.task import (
    MAX_BAD_FRACTION,
    ChooseLabel,
    Prediction,
    RowCounts,
    Task,
    WriteText,
    check_access,
    check_bad_fraction,
    check_training_split,
    declared_label,
    file_hashes,
    named_files,
)

# -------------------------------------------------------------------------------------------------
# Questions of one type of BioASQ task B, as its tasks ask them.
# -------------------------------------------------------------------------------------------------

TYPES = ("yesno", "factoid", "list", "summary")


@dataclass(frozen=True)
class Question:
    """A question with its snippets and exact answers.

    Attributes:
        answers: Groups of texts that mean the same, as the file writes them.
        file: Name of the file.
    """

    id: str
    body: str
    snippets: Sequence[str]
    answers: Sequence[Sequence[str]]
    file: str

    @property
    def key(self) -> str:
        """What is equal for the same question under another id, whatever its punctuation."""
        return match_key(self.body)


def read_questions(
    paths: Sequence[Path], kind: str, max_bad_fraction: float = MAX_BAD_FRACTION
) -> tuple[list[Question], Counter[str]]:
    """Return the questions of one type, each once, and how many are of no use, by reason.

    Raises:
        DataError: A file is in neither layout, or in the form of SQuAD and not for factoids, or
            more of the questions are damaged than max_bad_fraction.
    """
    found: dict[str, Question] = {}
    counts = RowCounts()
    for path in paths:
        for question in _of_kind(path, kind):
            counts.num_rows += 1
            if isinstance(question, Reject):
                counts.reject(question)
            elif question.id in found:
                counts.rejects["repeated id"] += 1
            else:
                found[question.id] = question
    counts.check(", ".join(path.name for path in paths), max_bad_fraction)
    return list(found.values()), counts.rejects


def answer_groups(value: Any) -> list[list[str]] | None:
    """Return exact answers as groups of synonyms; None if they have another form.

    A text is one group, and so is each text of a flat list; empty texts are left out.
    """
    entries = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(entries, list):
        return None
    groups = [text_list(entry) for entry in entries]
    if None in groups or None in entries:
        return None
    filled = [[text for text in group if text.strip()] for group in groups if group]
    return [group for group in filled if group]


def _of_kind(path: Path, kind: str) -> Iterator[Question | Reject]:
    for question in bioasq.read_questions(path):
        if question.kind == bioasq.SQUAD and kind != "factoid":
            raise DataError(f"{path} is in the form of SQuAD, which is for factoid questions alone")
        if question.kind not in (*TYPES, bioasq.SQUAD):
            raise DataError(
                f"{question.where} has the type {question.kind!r}; allowed: {', '.join(TYPES)}"
            )
        if question.kind in (kind, bioasq.SQUAD):
            yield _question(question, path.name)


def _question(question: bioasq.BioASQQuestion, file: str) -> Question | Reject:
    if not question.body.strip():
        return Reject("empty question", question.id)
    groups = answer_groups(question.exact_answer)
    if groups is None:
        raise DataError(
            f"{question.where} is not BioASQ: exact_answer must be text or lists of text"
        )
    if not groups:
        return Reject("no exact answer", question.id)
    return Question(question.id, question.body.strip(), question.snippets, groups, file)


# -------------------------------------------------------------------------------------------------
# What the tasks of BioASQ share: their files and their splits.
# -------------------------------------------------------------------------------------------------


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


# -------------------------------------------------------------------------------------------------
# BioASQ yes/no questions.
# -------------------------------------------------------------------------------------------------

LABELS = ("yes", "no")


@dataclass(frozen=True, kw_only=True)
class BioASQYesNo(BioASQTask):
    """Questions that are answered by yes or no, with the snippets that answer them."""

    question_type: ClassVar[str] = "yesno"

    name: str = "bioasq_yesno"
    protocol: str = "bioasq-b-yesno"

    @property
    def answer(self) -> ChooseLabel:
        """Yes or no."""
        return ChooseLabel(LABELS)

    def item_of(self, question: Question) -> Item | Reject:
        """Turn a question into an item.

        Raises:
            DataError: The answer is neither yes nor no.
        """
        given = [text.strip().rstrip(".").lower() for group in question.answers for text in group]
        answers = list(dict.fromkeys(given))
        where = f"{question.file}: question {question.id}"
        value = answers[0] if len(answers) == 1 else answers
        label = declared_label(value, LABELS, where, key="exact_answer")
        return Item(
            id=question.id,
            parts=parts_of(question),
            target=label,
            label=label,
            facts={"file": question.file},
        )

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return macro-F1, the official main figure, accuracy and what is behind them."""
        return label_figures(LABELS, items, predictions, main="macro_f1")


# -------------------------------------------------------------------------------------------------
# BioASQ factoid questions: up to five candidates, the best one first.
# -------------------------------------------------------------------------------------------------

OFFICIAL_FACTOID = "bioasq-b-factoid"


@dataclass(frozen=True, kw_only=True)
class BioASQFactoid(BioASQTask):
    """Questions that are answered by a name or a number, from golden files or the form of SQuAD.

    Attributes:
        max_new_tokens: Most tokens of an answer.
        num_candidates: How many candidates are asked for, 1 to 5.
        cleaning: `none`, or `full_stop` to take a final full stop off every candidate.
    """

    question_type: ClassVar[str] = "factoid"

    max_new_tokens: int = 32
    num_candidates: int = MAX_CANDIDATES
    cleaning: str = "none"
    name: str = "bioasq_factoid"
    protocol: str = OFFICIAL_FACTOID

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cleaning(self.cleaning, self.protocol, OFFICIAL_FACTOID)
        check_whole("num_candidates", self.num_candidates, at_most=MAX_CANDIDATES)

    @property
    def answer(self) -> WriteText:
        """One line."""
        return WriteText(self.max_new_tokens, stop=("\n",), num_candidates=self.num_candidates)

    def item_of(self, question: Question) -> Item | Reject:
        """Turn a question into an item; its first answer is the target."""
        return Item(
            id=question.id,
            parts=parts_of(question),
            target=one_line(question.answers[0][0]),
            references=question.answers,
            facts={"file": question.file},
        )

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return the reciprocal rank, the official main figure, and both accuracies."""
        ordered = in_order(items, predictions)
        candidates = [candidates_of(prediction, self.cleaning) for prediction in ordered]
        empty = np.array([not found for found in candidates], dtype=np.bool_)
        return [
            *ranking_measures([item.references for item in items], candidates),
            proportion("unparsable_ratio", empty, higher_is_better=False),
        ]


# -------------------------------------------------------------------------------------------------
# BioASQ list questions: all names that answer a question.
# -------------------------------------------------------------------------------------------------

OFFICIAL_LIST = "bioasq-b-list"
_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\(?\d{1,2}[.)])\s+")


@dataclass(frozen=True, kw_only=True)
class BioASQList(BioASQTask):
    """Questions that are answered by a list, written with one entry per line.

    Attributes:
        max_new_tokens: Most tokens of all entries together.
        cleaning: `none`, or `full_stop` to take a final full stop off every entry.
    """

    question_type: ClassVar[str] = "list"

    max_new_tokens: int = 256
    cleaning: str = "none"
    name: str = "bioasq_list"
    protocol: str = OFFICIAL_LIST

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cleaning(self.cleaning, self.protocol, OFFICIAL_LIST)

    @property
    def answer(self) -> WriteText:
        """Lines, up to an empty one."""
        return WriteText(self.max_new_tokens, stop=("\n\n",))

    def item_of(self, question: Question) -> Item | Reject:
        """Turn a question into an item; the first text of each group is a line of the target."""
        lines = [one_line(group[0]) for group in question.answers]
        return Item(
            id=question.id,
            parts=parts_of(question),
            target="\n".join(lines),
            references=question.answers,
            facts={"file": question.file},
        )

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return F1 per question, the official main figure, precision and recall."""
        ordered = in_order(items, predictions)
        answers = [parse_list(prediction.text, self.cleaning) for prediction in ordered]
        empty = np.array([not found for found in answers], dtype=np.bool_)
        return [
            *list_measures([item.references for item in items], answers),
            proportion("unparsable_ratio", empty, higher_is_better=False),
        ]


def parse_list(text: str, cleaning: str = "none") -> list[str]:
    """Return the entries of a list that a model wrote, repeated ones once.

    Several lines are an entry each; a single line is cut at `;`. Bullets and numbers before an
    entry are dropped. Commas are part of names and cut nothing.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    entries = lines if len(lines) > 1 else text.split(";")
    found: dict[str, str] = {}
    for entry in entries:
        name = cleaned(_BULLET.sub("", entry), cleaning)
        found.setdefault(name.lower(), name)
    return [name for name in found.values() if name]
