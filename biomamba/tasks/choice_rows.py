"""Rows of multiple-choice sets, whatever their columns, as questions with options."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biomamba.data.cleaning.words import match_key
from biomamba.data.document import Reject, text_id
from biomamba.data.rows import Row, RowSource, with_columns
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.task_rows import MAX_BAD_FRACTION, RowCounts, declared_label

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
        ending: Text behind the blank, which follows every option; empty otherwise.
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
        return Reject("no text behind a blank", where)
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
