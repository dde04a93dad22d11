"""Multiple choice: rows of any columns as questions, the likeliest option as the answer."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomamba.data.cleaning.ngrams import match_key
from biomamba.data.document import Reject, SplitRule, document_key, text_id
from biomamba.data.rows import Row, RowSource, with_columns
from biomamba.metrics.classification import calibration_measures
from biomamba.metrics.measure import Measure, proportion
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_whole
from biomamba.tasks.labels import in_order
from biomamba.tasks.prompt import Item, Items, Prompt
from biomamba.tasks.task import (
    MAX_BAD_FRACTION,
    ChooseOption,
    Prediction,
    RowCounts,
    Task,
    check_access,
    check_bad_fraction,
    check_training_split,
    declared_label,
)

# -------------------------------------------------------------------------------------------------
# Rows of multiple-choice sets, whatever their columns, as questions with options.
# -------------------------------------------------------------------------------------------------

FORMS = ("plain", "hellaswag", "winogrande")
LETTERS = string.ascii_uppercase
_BRACKETS = re.compile(r"\[.*?\]")


@dataclass(frozen=True, kw_only=True)
class ChoiceColumns:
    """Which columns of a row hold what; `choices.text` is `text` inside the column `choices`.

    Attributes:
        form: `plain`: one column of the question. `hellaswag`: columns of the activity and of both
            halves of a text to be continued. `winogrande`: one sentence with a blank `_`.
        question: These columns.
        options: A column for each option, or the one column with a list or an object of all.
        answer: Column with the name of the right option.
        names: What `answer` calls the options, in their order.
        names_column: Column with these names, where they differ from row to row.
        no_answer: Values of `answer` that stand for a secret answer, as "-1"; such rows are left
            out and counted. Any other value that names no option is an error.
        id: Column of the id; None names a question by a hash of its texts.
    """

    question: Sequence[str]
    options: Sequence[str]
    answer: str
    names: Sequence[str] = ()
    names_column: str | None = None
    no_answer: Sequence[str] = ()
    id: str | None = None
    form: str = "plain"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ConfigError(f"form is {self.form!r}; allowed: {', '.join(FORMS)}")
        wanted = 3 if self.form == "hellaswag" else 1
        if len(self.question) != wanted or not self.options:
            raise ConfigError(
                f"form {self.form} needs {wanted} columns of the question and one or more of "
                f"options; found {list(self.question)} and {list(self.options)}"
            )
        if bool(self.names) == (self.names_column is not None):
            raise ConfigError("give either names of the options or names_column")
        both = sorted(set(self.names) & set(self.no_answer))
        if both:
            raise ConfigError(f"names and no_answer both have {both}; a value means one thing")

    @property
    def needed(self) -> frozenset[str]:
        """The columns of a file that are read."""
        named = [*self.question, *self.options, self.answer, self.names_column, self.id]
        return frozenset(name.partition(".")[0] for name in named if name is not None)


@dataclass(frozen=True)
class Choice:
    """A question, its options and the place of the right one.

    Attributes:
        question: Text before the answer; that before the blank in a sentence of winogrande.
        ending: Text after the blank, which follows every option; empty otherwise.
        key: Hash of all texts, to find the same row under another id.
        match_key: Hash of their letters and digits, whatever their case and punctuation: what is
            equal for a question of another split.
    """

    id: str
    question: str
    options: Sequence[str]
    right: int
    ending: str
    key: str
    match_key: str


def read_choices(
    rows: RowSource, columns: ChoiceColumns, max_bad_fraction: float = MAX_BAD_FRACTION
) -> tuple[list[Choice], Counter[str]]:
    """Return the questions, each once, and how many rows are of no use, by reason.

    Raises:
        DataError: A row lacks a column, a column holds something else, an answer names no option,
            or more of the rows are damaged than max_bad_fraction.
    """
    found: dict[str, Choice] = {}
    keys: set[str] = set()
    counts = RowCounts()
    shards = with_columns(rows.shards(), columns.needed)
    for shard in shards:
        for number, row in enumerate(shard.rows(), start=1):
            counts.num_rows += 1
            where = f"{shard.name} row {number}"
            choice = row if isinstance(row, Reject) else _choice(row, columns, where)
            if isinstance(choice, Reject):
                counts.reject(choice)
            elif choice.key in keys:
                counts.rejects["repeated question"] += 1
            elif choice.id in found:
                raise DataError(f"{where} repeats the id {choice.id} with another question")
            else:
                found[choice.id] = choice
                keys.add(choice.key)
    counts.check(", ".join(shard.name for shard in shards), max_bad_fraction)
    return list(found.values()), counts.rejects


def _choice(row: Row, columns: ChoiceColumns, where: str) -> Choice | Reject:
    texts = [_text(row, column, where) for column in columns.question]
    names = [str(name) for name in columns.names]
    options = _options(row, columns, names, where)
    if columns.names_column is not None:
        names = _texts(_value(row, columns.names_column, where), columns.names_column, where)
    question, ending = _FORMERS[columns.form](texts)
    if columns.form == "hellaswag":
        options = [_without_brackets(option) for option in options]
    value = _value(row, columns.answer, where)
    answer = "null" if value is None else str(value).strip()
    if answer in columns.no_answer:
        return Reject("answer is secret", where)
    if columns.form == "winogrande" and not ending:
        return Reject("no text after a blank", where)
    if reason := _reason(texts, options):
        return Reject(reason, where)
    if len(names) != len(options):
        raise DataError(
            f"{where} has {len(options)} options, the task declares {len(names)} names: "
            f"{', '.join(names)}; check that the file is of this set"
        )
    right = names.index(declared_label(answer, names, where, key=columns.answer))
    parts = [question, ending, *options]
    key = text_id("\n".join(parts))
    name = key if columns.id is None else str(_value(row, columns.id, where)).strip()
    loose = text_id("\n".join(map(match_key, parts)))
    return Choice(name, question, options, right, ending, key, loose)


def _reason(texts: Sequence[str], options: Sequence[str]) -> str | None:
    """Say why a row cannot be asked, if it cannot."""
    if not any(texts):
        return "empty question"
    if len(options) < 2 or not all(options):
        return "fewer than two options or an empty one"
    if len(options) > len(LETTERS):
        return "more options than letters"
    if len(set(options)) < len(options):
        return "options are not distinct"
    return None


def _options(row: Row, columns: ChoiceColumns, names: Sequence[str], where: str) -> list[str]:
    if len(columns.options) > 1:
        return [_text(row, column, where) for column in columns.options]
    name = columns.options[0]
    value = _value(row, name, where)
    if isinstance(value, Mapping):  # from letters to texts
        # Parquet gives every row all letters that any row has.
        given = sorted(letter for letter, text in value.items() if text is not None)
        if names and given != sorted(names):
            raise DataError(
                f"{where}: {name} has the options {', '.join(given)}, the task declares "
                f"{', '.join(names)}; check that the file is of this set"
            )
        value = [value[letter] for letter in names or given]
    return _texts(value, name, where)


def _value(row: Row, column: str, where: str) -> Any:
    value: Any = row
    for name in column.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise DataError(
                f"{where} has no column {column}; it has {', '.join(sorted(row))}: check that the "
                "file is of this set and `columns` of this file"
            )
        value = value[name]
    return value


def _text(row: Row, column: str, where: str) -> str:
    return _texts([_value(row, column, where)], column, where)[0]


def _texts(value: Any, column: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{where}: column {column} is not text")
    return [text.strip() for text in value]


def _plain(texts: Sequence[str]) -> tuple[str, str]:
    return texts[0], ""


def _continued(texts: Sequence[str]) -> tuple[str, str]:
    """Join an activity and both halves of its text, as lm-evaluation-harness 0.4 does."""
    activity, first, second = texts
    return _without_brackets(f"{activity}: {first} {second.capitalize()}"), ""


def _around_blank(texts: Sequence[str]) -> tuple[str, str]:
    before, _, behind = texts[0].partition("_")
    return before, behind.strip()


_FORMERS = {"plain": _plain, "hellaswag": _continued, "winogrande": _around_blank}


def _without_brackets(text: str) -> str:
    """Remove the marks that WikiHow left in hellaswag."""
    text = text.strip().replace(" [title]", ". ")
    return _BRACKETS.sub("", text).replace("  ", " ").strip()


# -------------------------------------------------------------------------------------------------
# Multiple choice: the option with the largest likelihood after its question is the answer.
# -------------------------------------------------------------------------------------------------

NORMALISE = ("bytes", "tokens", "none")
WRITTEN_AS = ("text", "letter")


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Task):
    """Questions with options, from local files or from the hub.

    The parts of a prompt are `question` and `options` (one per line after its letter).
    In winogrande the options are inside the question and what is scored follows them
    (`Item.option_parts`).

    Attributes:
        test: Rows of the test split; the validation file of a set whose test answers are secret.
        train: Rows to train on; null: none.
        val: Rows to select with; null: those of `train` that a hash of the id chooses.
        val_permille: Thousandths of the ids of `train` that are `val` if val is null.
        columns: Which columns hold what.
        written_as: The answer is the `text` of an option, or its `letter`.
        normalise: By what the log-probability of an option is divided: `bytes`, `tokens` or `none`.
        max_bad_fraction: A split with more damaged rows than this is refused.
    """

    test: RowSource
    columns: ChoiceColumns
    prompt: Prompt
    name: str
    protocol: str
    train: RowSource | None = None
    val: RowSource | None = None
    val_permille: int = 50
    written_as: str = "text"
    normalise: str = "bytes"
    access: str = "open"
    max_bad_fraction: float = MAX_BAD_FRACTION

    def __post_init__(self) -> None:
        check_access(self.access)
        check_bad_fraction(self.max_bad_fraction, self.name)
        for name, value, allowed in (
            ("written_as", self.written_as, WRITTEN_AS),
            ("normalise", self.normalise, NORMALISE),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
        check_whole("val_permille", self.val_permille, at_least=0, at_most=999)
        if self.columns.form == "winogrande" and (self.written_as, self.normalise) != (
            "text",
            "none",
        ):
            raise ConfigError(
                "form winogrande scores one ending after each option; set written_as to text and "
                "normalise to none"
            )

    @property
    def answer(self) -> ChooseOption:
        """One of the options of the item."""
        return ChooseOption(self.normalise)

    @property
    def files(self) -> Mapping[str, str]:
        """Fingerprint of every file, by split and name."""
        return {
            f"{split}/{name}": digest
            for split, rows in self._sources.items()
            if rows is not None
            for name, digest in _fingerprints(rows).items()
        }

    def split_files(self, split: str) -> Mapping[str, str]:
        """Fingerprints of the files of a split; `val` may be rows of `train`."""
        rows = self._sources[split] or (self.train if split == "val" else None)
        return {} if rows is None else _fingerprints(rows)

    def split_rule(self, split: str) -> str:
        """Return the share of `train` that is `val`, where no file is."""
        is_shared = split != "test" and self.val is None
        return f"val_permille {self.val_permille}" if is_shared else ""

    @property
    def _sources(self) -> Mapping[str, RowSource | None]:
        return {"train": self.train, "val": self.val, "test": self.test}

    def items(self, split: str) -> Items:
        """Return `train` or `val`; questions of the test split are left out and counted."""
        check_training_split(split)
        later = self._read(self.test)[0]
        if self.val is None:
            choices, rejects = self._without(self._read(self.train), later)
            rule = SplitRule(val_permille=self.val_permille, test_permille=0)
            chosen = [each for each in choices if rule.split_of(document_key(each.id)) == split]
            return Items([self._item(choice) for choice in chosen], rejects)
        choices, rejects = self._without(self._read(self.val), later)
        if split == "train":
            choices, rejects = self._without(self._read(self.train), [*later, *choices])
        return Items([self._item(choice) for choice in choices], rejects)

    def held_out(self) -> Items:
        """Return the test questions.

        Raises:
            DataError: None has a known answer.
        """
        choices, rejects = self._read(self.test)
        if not choices:
            raise DataError(
                f"no row of the test split of {self.name} can be asked ({dict(rejects)}); where "
                "answers are secret, name the validation file"
            )
        return Items([self._item(choice) for choice in choices], rejects)

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return accuracy, and calibration where likelihoods are not divided by lengths."""
        ordered = in_order(items, predictions)
        truths = [item.references[0][0] for item in items]
        is_plain = self.normalise == "none"
        scores = [prediction.scores if is_plain else {} for prediction in ordered]
        pairs = list(zip(items, ordered, strict=True))
        hits = [item.references[0][0] == given.text for item, given in pairs]
        unknown = [given.text not in item.options for item, given in pairs]
        return [
            proportion("accuracy", np.array(hits, dtype=np.bool_)),
            proportion(
                "unparsable_ratio", np.array(unknown, dtype=np.bool_), higher_is_better=False
            ),
            *calibration_measures(truths, scores),
        ]

    def _read(self, rows: RowSource | None) -> tuple[list[Choice], Counter[str]]:
        if rows is None:
            return [], Counter()
        return read_choices(rows, self.columns, self.max_bad_fraction)

    def _without(
        self, found: tuple[list[Choice], Counter[str]], later: Sequence[Choice]
    ) -> tuple[list[Choice], Counter[str]]:
        """Leave out and count the questions that a later split has, also in another spelling.

        Raises:
            DataError: Another question of a later split has the same id.
        """
        choices, rejects = found
        keys = {choice.match_key for choice in later}
        ids = {choice.id for choice in later}
        kept = [choice for choice in choices if choice.match_key not in keys]
        shared = [choice.id for choice in kept if choice.id in ids]
        if shared:
            raise DataError(
                f"{len(shared)} ids of {self.name} stand for different questions in two splits, "
                f"the first is {shared[0]}: check the files, or set columns.id to null"
            )
        if len(kept) < len(choices):
            rejects["question of another split"] += len(choices) - len(kept)
        return kept, rejects

    def _item(self, choice: Choice) -> Item:
        options = list(choice.options)
        lettered = "\n".join(f"{LETTERS[n]}. {option}" for n, option in enumerate(options))
        parts = {"question": choice.question, "options": lettered}
        option_parts: list[dict[str, str]] = []
        if self.written_as == "letter":
            options = list(LETTERS[: len(options)])
        target = options[choice.right]
        if choice.ending:
            option_parts = [{"question": choice.question + option} for option in options]
            parts |= option_parts[choice.right]
        return Item(
            id=choice.id,
            parts=parts,
            target=choice.ending or target,
            references=[[target]],
            options=options,
            option_parts=option_parts,
        )


def _fingerprints(rows: RowSource) -> dict[str, str]:
    return {shard.name: shard.fingerprint().removeprefix("sha256:") for shard in rows.shards()}
