"""Rows of multiple-choice sets, whatever their columns, as questions with options."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biomamba.data.document import Reject, text_id
from biomamba.data.rows import Row, RowSource
from biomamba.runtime.errors import ConfigError, DataError

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
        id: Column of the id; None names a question by a hash of its texts.
    """

    question: Sequence[str]
    options: Sequence[str]
    answer: str
    names: Sequence[str] = ()
    names_column: str | None = None
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


@dataclass(frozen=True)
class Choice:
    """A question, its options and the place of the right one.

    Attributes:
        question: Text before the answer; that before the blank in a sentence of winogrande.
        ending: Text behind the blank, which follows every option; empty otherwise.
        key: Hash of all texts, to find the question under another id.
    """

    id: str
    question: str
    options: Sequence[str]
    right: int
    ending: str
    key: str


def read_choices(rows: RowSource, columns: ChoiceColumns) -> tuple[list[Choice], Counter[str]]:
    """Return the questions, each once, and how many rows are of no use, by reason.

    Raises:
        DataError: A row lacks a column, or a column holds something else.
    """
    found: dict[str, Choice] = {}
    keys: set[str] = set()
    rejects: Counter[str] = Counter()
    for shard in rows.shards():
        for number, row in enumerate(shard.rows(), start=1):
            where = f"{shard.name} row {number}"
            choice = row if isinstance(row, Reject) else _choice(row, columns, where)
            if isinstance(choice, Reject):
                rejects[choice.reason] += 1
            elif choice.key in keys:
                rejects["repeated question"] += 1
            elif choice.id in found:
                raise DataError(f"{where} repeats the id {choice.id} with another question")
            else:
                found[choice.id] = choice
                keys.add(choice.key)
    return list(found.values()), rejects


def _choice(row: Row, columns: ChoiceColumns, where: str) -> Choice | Reject:
    texts = [_text(row, column, where) for column in columns.question]
    options = _options(row, columns, where)
    names = [str(name) for name in columns.names]
    if columns.names_column is not None:
        names = _texts(_value(row, columns.names_column, where), columns.names_column, where)
    question, ending = _FORMERS[columns.form](texts)
    if columns.form == "hellaswag":
        options = [_without_brackets(option) for option in options]
    answer = str(_value(row, columns.answer, where)).strip()
    if columns.form == "winogrande" and not ending:
        return Reject("no text behind a blank", where)
    if reason := _reason(texts, options, names, answer):
        return Reject(reason, where)
    key = text_id("\n".join([question, ending, *options]))
    name = key if columns.id is None else str(_value(row, columns.id, where)).strip()
    return Choice(name, question, options, names.index(answer), ending, key)


def _reason(
    texts: Sequence[str], options: Sequence[str], names: Sequence[str], answer: str
) -> str | None:
    """Say why a row cannot be asked, if it cannot."""
    if not any(texts):
        return "empty question"
    if len(options) < 2 or not all(options):
        return "fewer than two options or an empty one"
    if len(options) > len(LETTERS):
        return "more options than letters"
    if len(set(options)) < len(options):
        return "options are not distinct"
    if len(names) != len(options) or answer not in names:
        return "no known answer"
    return None


def _options(row: Row, columns: ChoiceColumns, where: str) -> list[str]:
    if len(columns.options) > 1:
        return [_text(row, column, where) for column in columns.options]
    name = columns.options[0]
    value = _value(row, name, where)
    if isinstance(value, Mapping):  # from letters to texts
        value = [value[letter] for letter in sorted(value)]
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
