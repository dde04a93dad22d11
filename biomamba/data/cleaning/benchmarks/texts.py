"""Any benchmark whose items are the rows of a table: MedQA, MMLU, house sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from biomamba.data.cleaning.benchmarks.item import Item, text_list
from biomamba.data.document import Reject
from biomamba.data.rows import LocalRows, with_columns
from biomamba.runtime.errors import ConfigError, DataError


@dataclass(frozen=True)
class TextColumns:
    """One item per row of JSON lines, CSV or Parquet files.

    Attributes:
        files: Files; `*` in a name stands for all that match.
        text_columns: Columns of a text or a list of texts that must not be trained on.
        id_column: Column that names the item; None names it by file and row.
        pmid_column: Column of a PMID; None if there is none.
    """

    files: list[str]
    text_columns: list[str]
    id_column: str | None = None
    pmid_column: str | None = None

    def __post_init__(self) -> None:
        if not self.files or not self.text_columns:
            raise ConfigError("files and text_columns of a benchmark must name at least one each")

    def fingerprints(self) -> dict[str, str]:
        """Return the hashes of the files by name."""
        return {shard.name: shard.fingerprint() for shard in LocalRows(self.files).shards()}

    def settings(self) -> dict[str, Any]:
        """Return the columns; the bytes of the files say the rest."""
        return {
            "layout": type(self).__name__,
            "text_columns": list(self.text_columns),
            "id_column": self.id_column,
            "pmid_column": self.pmid_column,
        }

    def items(self) -> Iterator[Item]:
        """Iterate over the rows."""
        named = (*self.text_columns, self.id_column, self.pmid_column)
        columns = [name for name in named if name is not None]
        for shard in with_columns(LocalRows(self.files).shards(), columns):
            num_rows = 0
            for num_rows, row in enumerate(shard.rows(), start=1):
                yield self._item(row, f"{shard.name} row {num_rows}")
            if not num_rows:
                raise DataError(f"benchmark file {shard.name} has no rows")

    def _item(self, row: Any, where: str) -> Item:
        if isinstance(row, Reject):
            raise DataError(f"benchmark file {row.id}: {row.reason}; mend the file")
        named = [name for name in (self.id_column, self.pmid_column) if name is not None]
        absent = [name for name in (*self.text_columns, *named) if name not in row]
        if absent:
            raise DataError(f"{where} of a benchmark has no column {absent}; it has {sorted(row)}")
        texts: list[str] = []
        for column in self.text_columns:
            found = text_list(row[column])
            if found is None:
                raise DataError(f"{where} of a benchmark: column {column!r} is not text")
            texts += found
        pmid = "" if self.pmid_column is None else str(row[self.pmid_column] or "").strip()
        name = where if self.id_column is None else str(row[self.id_column])
        return Item(name, texts, pmids=[pmid] if pmid else [])
