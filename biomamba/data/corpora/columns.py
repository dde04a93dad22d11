"""The general corpus: one document per row, its text joined from columns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from biomamba.data.document import Document, Reject, text_id
from biomamba.data.document_facts import DocumentFacts, year_of
from biomamba.data.rows import RawShard, Row, RowSource, with_columns
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_whole


@dataclass(frozen=True)
class ColumnCorpus:
    r"""Documents whose text is the join of some columns.

    A row without one of the columns, or with something other than text in it, is damaged; an empty
    column or a short text is left out by policy. Both are counted by reason.

    Attributes:
        rows: Where the rows come from.
        domain: Name of the kind of text.
        licence: Terms of use, written into the manifest.
        text_columns: Columns joined in this order.
        id_column: Column of the stable id; None names a document by the hash of its text, which
            also removes exact duplicates.
        separator: Text between two columns.
        min_chars: Shorter texts are left out.
        optional_columns: Text columns that may be empty; they are then skipped in the join.
        group_column: Column of what must not be divided between splits, for example the patient;
            None lets every document be on its own.
        year_column: Column of the year of publication, kept beside the tokens: `2003`, or a date;
            None keeps none.
    """

    rows: RowSource
    domain: str
    licence: str
    text_columns: list[str]
    id_column: str | None = None
    separator: str = "\n\n"
    min_chars: int = 1
    optional_columns: list[str] | None = None
    group_column: str | None = None
    year_column: str | None = None

    def __post_init__(self) -> None:
        if not self.text_columns:
            raise ConfigError(f"text_columns of corpus {self.domain!r} is empty; name at least one")
        unknown = sorted(set(self.optional_columns or []) - set(self.text_columns))
        if unknown:
            raise ConfigError(
                f"optional_columns {unknown} are not among text_columns {self.text_columns}"
            )
        check_whole("min_chars", self.min_chars)

    def shards(self) -> Sequence[RawShard]:
        """Return the raw shards in a fixed order; they read the columns of this corpus only."""
        return with_columns(self.rows.shards(), self.columns)

    @property
    def columns(self) -> list[str]:
        """The columns that are read; corpora that look at more add to them."""
        named = (self.id_column, self.group_column, self.year_column)
        return [*self.text_columns, *(name for name in named if name is not None)]

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents, apart from the raw bytes."""
        return {
            "layout": type(self).__name__,
            "text_columns": list(self.text_columns),
            "optional_columns": list(self.optional_columns or []),
            "id_column": self.id_column,
            "group_column": self.group_column,
            "separator": self.separator,
            "min_chars": self.min_chars,
            "rows": self.rows.settings(),
            # Not there without: as in the records of stores that never had years.
            **({"year_column": self.year_column} if self.year_column is not None else {}),
        }

    def documents(self, shard: RawShard) -> Iterator[Document | Reject]:
        """Turn the rows of one raw shard into documents, in order."""
        for number, row in enumerate(shard.rows(), start=1):
            where = f"{shard.name} row {number}"
            yield row if isinstance(row, Reject) else self._document(row, where)

    def clean_id(self, value: str) -> str:
        """Bring an id to its stable form; corpora with several spellings override this."""
        return value

    def clean_text(self, value: str) -> str:
        """Mend the text of one column; corpora with known damage override this."""
        return value

    def _document(self, row: Row, where: str) -> Document | Reject:
        document_id = _name(row, self.id_column)
        if self.id_column is not None and document_id is None:
            return Reject(f"no id in column {self.id_column!r}", where, is_damaged=True)
        if document_id is not None:
            document_id = where = self.clean_id(document_id)
        group = _name(row, self.group_column)
        if self.group_column is not None and group is None:
            return Reject(f"no group in column {self.group_column!r}", where, is_damaged=True)
        text = self._text(row, where)
        if isinstance(text, Reject):
            return text
        if self.year_column is not None and self.year_column not in row:
            return Reject(f"no column {self.year_column!r}", where, is_damaged=True)
        facts = _facts(row, self.year_column)
        return Document(text, document_id or text_id(text), self.domain, group, facts)

    def _text(self, row: Row, where: str) -> str | Reject:
        parts = []
        for column in self.text_columns:
            part = column_text(row, column, where)
            if isinstance(part, Reject):
                return part
            part = self.clean_text(part)
            if part.strip():
                parts.append(part)
            elif column not in (self.optional_columns or []):
                return Reject(f"empty {column}", where)
        text = self.separator.join(parts).strip()
        if len(text) < self.min_chars:
            return Reject(f"shorter than {self.min_chars} characters", where)
        return text


def _name(row: Row, column: str | None) -> str | None:
    value = None if column is None else row.get(column)
    is_name = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip() or None if is_name else None


def _facts(row: Row, year_column: str | None) -> DocumentFacts | None:
    """Return the year of a row; None where no years are asked for."""
    if year_column is None:
        return None
    value = row[year_column]
    return DocumentFacts(None if value is None else year_of(str(value)))


def column_text(row: Row, column: str, where: str) -> str | Reject:
    """Return the text of a column, empty for null, or why there is none."""
    if column not in row:
        return Reject(f"no column {column!r}", where, is_damaged=True)
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        return Reject(f"column {column!r} is not text", where, is_damaged=True)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return Reject(f"column {column!r} is not valid Unicode", where, is_damaged=True)
    if "\0" in value:
        return Reject(f"column {column!r} holds a zero character", where, is_damaged=True)
    return value
