"""Rows of the files of a task, and the checks that all tasks of tables share."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from biomamba.data.corpora.columns import column_text
from biomamba.data.document import Reject, document_key
from biomamba.data.rows import LocalRows, with_columns
from biomamba.runtime.errors import DataError
from biomamba.tasks.item import Item, Items

MAX_DAMAGED_SHARE = 0.01


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


def collect(found: Iterable[Item | Reject], where: str, limit: int | None = None) -> Items:
    """Gather items and count rejects by reason; of rows with the same id the first one counts.

    limit: Keep so many items, those with the smallest keys of their ids: a choice that looks random
        and stays when others are added or removed. None keeps all.

    Raises:
        DataError: More than 1 % of the rows are damaged, or nothing is left. No text is repeated.
    """
    kept: list[Item] = []
    ids: set[str] = set()
    rejects: Counter[str] = Counter()
    num_damaged = 0
    for each in found:
        if isinstance(each, Reject):
            rejects[each.reason] += 1
            num_damaged += each.is_damaged
            continue
        if each.id in ids:
            rejects["id of another row"] += 1
            continue
        ids.add(each.id)
        kept.append(each)
        if limit is not None and len(kept) > 2 * limit:
            kept = _chosen(kept, limit)
    num_rows = len(ids) + rejects.total()
    if num_damaged > MAX_DAMAGED_SHARE * num_rows:
        raise DataError(
            f"{where}: {num_damaged} of {num_rows} rows are damaged ({_counts(rejects)}), at most "
            f"{MAX_DAMAGED_SHARE:.0%} may be: look for lost quotes or fetch the file again"
        )
    if not kept:
        raise DataError(f"{where}: no item among {num_rows} rows ({_counts(rejects)})")
    return Items(kept if limit is None else _chosen(kept, limit), rejects)


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


def _counts(rejects: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in rejects.most_common()) or "no rows"
