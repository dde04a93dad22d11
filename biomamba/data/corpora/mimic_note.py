"""Clinical notes of MIMIC-IV-Note, grouped by patient."""

import re

from biomamba.data.corpora.columns import ColumnCorpus
from biomamba.data.document import Document, Reject
from biomamba.data.rows import Row, RowSource

_NOTE_ID = re.compile(r"(\d+)-[A-Z]{2}-\d+")


class MimicNotes(ColumnCorpus):
    """Discharge summaries or radiology reports, named by `note_id`, one group per `subject_id`.

    The text is kept as it is, with the `___` that stands for what was taken out to protect the
    patient. No message and no reject holds any of it: the id of a row is only repeated where it has
    the form `subject-type-number`.

    Args:
        rows: The CSV file, or rows with the columns note_id, subject_id and text; others are
            ignored.
        licence: Terms of use, written into the manifest.
        min_chars: Shorter notes are left out.
        domain: Name of the kind of text.

    Source: LeoYML/BioMamba@e61db22 drops notes below 200 characters and splits by subject_id.
    """

    def __init__(
        self, rows: RowSource, licence: str, min_chars: int = 200, domain: str = "clinical"
    ) -> None:
        super().__init__(
            rows=rows,
            domain=domain,
            licence=licence,
            text_columns=["text"],
            id_column="note_id",
            group_column="subject_id",
            min_chars=min_chars,
        )

    def _document(self, row: Row, where: str) -> Document | Reject:
        # A lost quote shifts the columns: what stands in note_id may then be text of the note.
        found = _NOTE_ID.fullmatch(str(row.get("note_id", "")).strip())
        if found is None:
            return Reject("malformed note_id", where, is_damaged=True)
        if found[1] != str(row.get("subject_id", "")).strip():
            return Reject("subject_id is not that of note_id", where, is_damaged=True)
        return super()._document(row, where)
