"""Medical transcriptions of MTSamples, all or those of some specialties."""

from dataclasses import dataclass
from typing import Any

from biomamba.data.corpora.columns import ColumnCorpus
from biomamba.data.document import Document, Reject
from biomamba.data.rows import Row


@dataclass(frozen=True)
class MtSamples(ColumnCorpus):
    """Notes with the specialties under which each was published, in a column of lists.

    Attributes:
        specialties: A note of one of these is kept; None keeps all.
    """

    specialties: list[str] | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [*super().columns, "specialties"]

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents, apart from the raw bytes."""
        return super().settings() | {"specialties": self.specialties}

    def _document(self, row: Row, where: str) -> Document | Reject:
        found = row.get("specialties")
        if not isinstance(found, list):
            return Reject("specialties is not a list", where, is_damaged=True)
        is_wanted = self.specialties is None or {str(name).strip() for name in found} & set(
            self.specialties
        )
        return super()._document(row, where) if is_wanted else Reject("another specialty", where)
