"""Notes of MTSamples by specialty."""

import json
from pathlib import Path

from biomamba.data.corpora.table import MtSamples
from biomamba.data.document import Document, Reject
from biomamba.data.rows import LocalRows

ROWS = [
    {"note_id": "1", "text": "a", "specialties": ["Surgery", " Discharge Summary"]},
    {"note_id": "2", "text": "b", "specialties": ["Surgery"]},
    {"note_id": "3", "text": "c", "specialties": "Surgery"},
]


def corpus(folder: Path, specialties: list[str] | None) -> MtSamples:
    file = folder / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    return MtSamples(
        rows=LocalRows(files=[str(file)]),
        domain="clinical",
        licence="CC0",
        text_columns=["text"],
        id_column="note_id",
        specialties=specialties,
    )


def test_notes_of_a_specialty_are_kept_and_others_counted(tmp_path: Path) -> None:
    notes = corpus(tmp_path, ["Discharge Summary"])

    first, second, third = notes.documents(notes.shards()[0])

    assert first == Document("a", "1", "clinical")
    assert second == Reject("another specialty", "a.jsonl row 2")
    assert third == Reject("specialties is not a list", "a.jsonl row 3", is_damaged=True)
    assert notes.settings()["specialties"] == ["Discharge Summary"]


def test_without_specialties_all_notes_are_kept(tmp_path: Path) -> None:
    notes = corpus(tmp_path, None)

    kept = [each for each in notes.documents(notes.shards()[0]) if isinstance(each, Document)]

    assert [each.id for each in kept] == ["1", "2"]
