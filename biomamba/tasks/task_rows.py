"""Rows of the files of a task, and the checks that all tasks of tables share."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from biomamba.data.corpora.columns import column_text
from biomamba.data.document import Reject, document_key
from biomamba.data.rows import LocalRows, with_columns
from biomamba.runtime.errors import DataError
from biomamba.runtime.numbers import check_number
from biomamba.tasks.item import Item, Items

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
    """Raise DataError if an item or a group stands in two splits."""
    home: dict[str, str] = {}
    for split, found in parts:
        for unit in sorted({item.unit for item in found.items}):
            if home.setdefault(unit, split) != split:
                raise DataError(f"{unit} stands in {home[unit]} and in {split}: splits must differ")


def reasons_of(rejects: Counter[str]) -> str:
    """Return the reasons and how often each was given, in words."""
    return ", ".join(f"{reason}: {count}" for reason, count in rejects.most_common()) or "no rows"
