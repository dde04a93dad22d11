"""The interface of tasks: items, prompts, predictions, metrics and files."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from biomamba.data.cleaning.benchmarks import hash_files
from biomamba.data.corpora.table import column_text
from biomamba.data.document import Reject, document_key
from biomamba.data.raw_shards import expand_files
from biomamba.data.rows import LocalRows, with_columns
from biomamba.metrics.measure import Measure
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number
from biomamba.tasks.prompt import Item, Items, Prompt

# -------------------------------------------------------------------------------------------------
# What a model answered to one item.
# -------------------------------------------------------------------------------------------------

ANSWERED, UNPARSABLE, EMPTY = "answered", "unparsable", "empty"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer to an item.

    Attributes:
        id: The item.
        text: What was generated, or the label or option that was chosen.
        label: The label that the answer stands for; None if it stands for none.
        candidates: Further answers, best first, the first one among them.
        scores: Probability of each label or option; they add up to 1. Empty for generated answers.
        status: `answered`, `unparsable` (counts as wrong) or `empty` (nothing was generated).
        num_cut_tokens: Tokens of the item that its prompt had to leave out.
    """

    id: str
    text: str
    label: str | None = None
    candidates: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    status: str = ANSWERED
    num_cut_tokens: int = 0


# -------------------------------------------------------------------------------------------------
# What every downstream task offers.
#
# `items` gives what may be trained on and selected with; `held_out` the test split, which only
# biomamba/evaluation may ask for (tests/test_held_out.py).
# -------------------------------------------------------------------------------------------------

ACCESS = ("open", "restricted")
TRAINING_SPLITS = ("train", "val")


@dataclass(frozen=True)
class ChooseLabel:
    """The answer is one of the labels of the task, by likelihood or by generation."""

    labels: Sequence[str]


@dataclass(frozen=True)
class ChooseOption:
    """The answer is one of the options of the item, by likelihood per byte (`normalise`)."""

    normalise: str = "bytes"


@dataclass(frozen=True)
class WriteText:
    """The answer is a text of at most max_new_tokens, ended by the model or by a stop text.

    num_candidates: The n best answers of a beam are wanted; 1 for the best one only.
    """

    max_new_tokens: int
    stop: Sequence[str] = ()
    num_candidates: int = 1


Answer = ChooseLabel | ChooseOption | WriteText


class Task(ABC):
    """Items, how they are put to a model, and how answers are measured.

    Subclasses are frozen keyword dataclasses: their fields are the keys of conf/task/<name>.yaml.

    Attributes:
        name: Name of the task in tables and files.
        protocol: Which published protocol the figures follow, as `pqal-500-3way`; is beside
            every figure.
        prompt: How an item is put to a model.
        access: `restricted` keeps every text of the items out of logs, exceptions, event files and
            result files.
    """

    name: str
    protocol: str
    prompt: Prompt
    access: str

    @property
    @abstractmethod
    def answer(self) -> Answer:
        """What kind of answer is wanted."""

    @abstractmethod
    def items(self, split: str) -> Items:
        """Return the items of `train` or `val`.

        Raises:
            ConfigError: Another split is asked for.
            DataError: A file is missing or not of the layout of the task.
        """

    @abstractmethod
    def held_out(self) -> Items:
        """Return the test split; of biomamba/evaluation only."""

    @abstractmethod
    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return the figures of predictions, one for every item, in the same order.

        The first measure is the main one of the task.
        """

    @property
    @abstractmethod
    def files(self) -> Mapping[str, str]:
        """sha256 of every file of the task by its name: its data fingerprint."""

    def split_files(self, split: str) -> Mapping[str, str]:  # noqa: ARG002 - not known here
        """Return the sha256 of the files that hold the texts of `train`, `val` or `test`, by name.

        They are compared with the files whose items were kept out of training data. All files of
        the task, where it does not say more.
        """
        return self.files

    def split_rule(self, split: str) -> str:  # noqa: ARG002 - most splits are whole files
        """Return what decides beside the files which items a split has; empty if nothing does."""
        return ""


def check_training_split(split: str) -> None:
    """Raise ConfigError unless a split may be trained on or selected with."""
    if split not in TRAINING_SPLITS:
        raise ConfigError(f"split is {split!r}; allowed: {', '.join(TRAINING_SPLITS)}")


def check_access(access: str) -> None:
    """Raise ConfigError unless an access is known."""
    if access not in ACCESS:
        raise ConfigError(f"access is {access!r}; allowed: {', '.join(ACCESS)}")


# -------------------------------------------------------------------------------------------------
# The files that a task names in its configuration.
# -------------------------------------------------------------------------------------------------


def named_files(entries: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """Return the files of all entries; `*` in a name stands for all that match.

    Raises:
        DataError: One is missing or of another kind.
    """
    return [path for entry in entries for path in expand_files(entry, suffixes)]


def file_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """Return the sha256 of each file by its name.

    Raises:
        DataError: Two files share a name.
    """
    return {name: digest.removeprefix("sha256:") for name, digest in hash_files(paths).items()}


# -------------------------------------------------------------------------------------------------
# Rows of the files of a task, and the checks that all tasks of tables share.
# -------------------------------------------------------------------------------------------------

MAX_BAD_FRACTION = 0.01
_MAX_SHOWN = 30  # characters of a value in a message


@dataclass
class RowCounts:
    """Rows of the files of a split, and those that could not become items.

    Attributes:
        num_rows: All rows.
        num_damaged: Those with a technical fault, as one that ends early.
        rejects: Those that are no items, damaged or not, by reason.
    """

    num_rows: int = 0
    num_damaged: int = 0
    rejects: Counter[str] = field(default_factory=Counter)

    def reject(self, reject: Reject) -> None:
        """Count the reason of a row; `num_rows` counts the row itself."""
        self.rejects[reject.reason] += 1
        self.num_damaged += reject.is_damaged

    def check(self, where: str, max_bad_fraction: float) -> None:
        """Refuse files with too many damaged rows.

        Raises:
            DataError: More of the rows are damaged than this fraction. No text is repeated.
        """
        if self.num_damaged > max_bad_fraction * self.num_rows:
            raise DataError(
                f"{where}: {self.num_damaged} of {self.num_rows} rows are damaged "
                f"({reasons_of(self.rejects)}), at most {max_bad_fraction:.2%} may be "
                "(max_bad_fraction of the task): look for lost quotes or fetch the file again"
            )


def check_bad_fraction(value: float, task: str) -> None:
    """Raise ConfigError unless a limit of damaged rows is a fraction."""
    check_number(f"max_bad_fraction of {task}", value, at_least=0, at_most=1)


def declared_label(value: object, labels: Sequence[str], where: str, key: str) -> str:
    """Return a label that a task declares.

    Raises:
        DataError: The value is another one; file, row, key and value are named.
    """
    if isinstance(value, str) and value in labels:
        return value
    shown = repr(value) if len(repr(value)) <= _MAX_SHOWN else f"a {type(value).__name__}"
    raise DataError(
        f"{where}: {key} is {shown}, the task declares {', '.join(map(repr, labels))}: check that "
        "the file is of this release, or fix the value"
    )


def rows_of(files: Sequence[str], columns: Sequence[str]) -> Iterator[dict[str, str] | Reject]:
    """Iterate over the rows of files: their columns as texts, and `where` each row is.

    Raises:
        DataError: A file is missing, damaged, or lacks a column in all of its rows.
    """
    for shard in with_columns(LocalRows(files=list(files)).shards(), columns):
        for number, row in enumerate(shard.rows(), start=1):
            where = f"{shard.name} row {number}"
            if isinstance(row, Reject):
                yield row
                continue
            missing = sorted(set(columns) - set(row))
            if missing and number == 1:
                raise DataError(
                    f"{shard.name} has no columns {missing}; it needs {', '.join(columns)}: "
                    "check that it is the file of this task"
                )
            yield _texts(row, columns, where)


def _texts(row: dict[str, object], columns: Sequence[str], where: str) -> dict[str, str] | Reject:
    texts = {"where": where}
    for column in columns:
        text = column_text(row, column, where)
        if isinstance(text, Reject):
            return text
        texts[column] = text
    return texts


def collect(
    found: Iterable[Item | Reject],
    where: str,
    limit: int | None = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> Items:
    """Gather items and count rejects by reason; of rows with the same id the first one counts.

    limit: Keep so many items, those with the smallest keys of their ids: a choice that looks random
        and stays when others are added or removed. None keeps all.

    Raises:
        DataError: More of the rows are damaged than max_bad_fraction, or nothing is left. No text
            is repeated.
    """
    kept: list[Item] = []
    ids: set[str] = set()
    counts = RowCounts()
    for each in found:
        counts.num_rows += 1
        if isinstance(each, Reject):
            counts.reject(each)
            continue
        if each.id in ids:
            counts.rejects["id of another row"] += 1
            continue
        ids.add(each.id)
        kept.append(each)
        if limit is not None and len(kept) > 2 * limit:
            kept = _chosen(kept, limit)
    counts.check(where, max_bad_fraction)
    if not kept:
        raise DataError(
            f"{where}: no item among {counts.num_rows} rows ({reasons_of(counts.rejects)})"
        )
    return Items(kept if limit is None else _chosen(kept, limit), counts.rejects)


def _chosen(items: Sequence[Item], limit: int) -> list[Item]:
    """Return the items with the smallest keys, in their order."""
    keys = sorted(document_key(item.id) for item in items)
    return [item for item in items if len(keys) <= limit or document_key(item.id) < keys[limit]]


def check_apart(parts: Iterable[tuple[str, Items]]) -> None:
    """Raise DataError if an item or a group is in two splits."""
    home: dict[str, str] = {}
    for split, found in parts:
        for unit in sorted({item.unit for item in found.items}):
            if home.setdefault(unit, split) != split:
                raise DataError(f"{unit} is in {home[unit]} and in {split}: splits must differ")


def reasons_of(rejects: Counter[str]) -> str:
    """Return the reasons and how often each was given, in words."""
    return ", ".join(f"{reason}: {count}" for reason, count in rejects.most_common()) or "no rows"
