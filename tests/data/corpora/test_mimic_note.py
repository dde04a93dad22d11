"""Clinical notes: one group per patient, the text as it is, and none of it in any message."""

import csv
import gzip
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.corpora.table import MimicNotes
from biomamba.data.document import SPLITS, Document, Reject, document_key
from biomamba.data.prepare.pipeline import prepare
from biomamba.data.rows import LocalRows
from biomamba.data.store.reader import TokenSplit, open_stores
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel
from biomamba.runtime.errors import DataError

HEADER = "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text"
NOTE = 'Name:  ___\n\nHe took 5 mg, "daily".\n' + "Zebrafish secret. " * 20
POLICY = StorePolicy(val_permille=0, test_permille=0)
Row = Document | Reject


def note(subject: int, number: int, text: str = NOTE, **fields: Any) -> dict[str, Any]:
    row = {
        "note_id": f"{subject}-DS-{number}",
        "subject_id": subject,
        "hadm_id": "",
        "note_type": "DS",
        "note_seq": number,
        "charttime": "2150-01-01 00:00:00",
        "storetime": "",
        "text": text,
    }
    return row | fields


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, HEADER.split(","), quoting=csv.QUOTE_MINIMAL)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(gzip.compress(stream.getvalue().encode()))
    return path


def corpus_of(path: Path) -> MimicNotes:
    return MimicNotes(LocalRows([str(path)]), "never upload")


def read(path: Path) -> list[Row]:
    corpus = corpus_of(path)
    return [row for shard in corpus.shards() for row in corpus.documents(shard)]


def test_a_note_keeps_its_text_its_id_and_its_patient(tmp_path: Path) -> None:
    rows = [note(10, 1, hadm_id=22), note(10, 2), note(11, 1)]
    assert read(write(tmp_path / "a.csv.gz", rows)) == [
        Document(NOTE.strip(), "10-DS-1", "clinical", "10"),
        Document(NOTE.strip(), "10-DS-2", "clinical", "10"),
        Document(NOTE.strip(), "11-DS-1", "clinical", "11"),
    ]


@pytest.mark.parametrize("hadm_id", [None, 22, 22.0, ""])
def test_columns_beside_the_three_do_not_matter(
    hadm_id: object, rows_of: Callable[..., LocalRows]
) -> None:
    corpus = MimicNotes(rows_of([note(10, 1, hadm_id=hadm_id)]), "never upload")
    (document,) = corpus.documents(corpus.shards()[0])
    assert document == Document(NOTE.strip(), "10-DS-1", "clinical", "10")


def test_a_note_below_200_characters_is_left_out(tmp_path: Path) -> None:
    rows = [note(10, 1, "x" * 199), note(10, 2, "x" * 200)]
    reject, document = read(write(tmp_path / "a.csv.gz", rows))
    assert reject == Reject("shorter than 200 characters", "10-DS-1")
    assert isinstance(document, Document)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"note_id": NOTE}, "malformed note_id"),
        ({"note_id": ""}, "malformed note_id"),
        ({"note_id": "10-DS-1 " + NOTE}, "malformed note_id"),
        ({"subject_id": NOTE}, "subject_id is not that of note_id"),
        ({"subject_id": 11}, "subject_id is not that of note_id"),
    ],
)
def test_a_row_whose_columns_shifted_is_damaged(
    fields: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.csv.gz", [note(10, 1, **fields)])
    assert read(path) == [Reject(reason, "a.csv.gz row 1", is_damaged=True)]


def damaged(text: str) -> dict[str, bytes]:
    """Ways in which the CSV of notes may be damaged; every one leaves text of notes in reach."""
    first = text.index("Zebrafish")
    return {
        "cut": text[: len(text) // 2].encode(),
        "lost quote": text.replace('"Name', "Name", 1).encode(),
        "extra quote": (text[:first] + '"' + text[first:]).encode(),
        "no id": text.replace("10-DS-1", "", 1).encode(),
        "shifted": text.replace("10-DS-1,10,", "", 1).encode(),
        "not UTF-8": text.encode().replace(b"secret", b"\xffsecret", 1),
        "other columns": text.replace("text", "field_value", 1).encode(),
        "swapped columns": text.replace(HEADER, f"text{HEADER[7:-4]}note_id", 1).encode(),
        "no header": text.partition("\n")[2].encode(),
    }


@pytest.mark.parametrize("kind", list(damaged("Zebrafish")))
def test_no_message_holds_text_of_a_note(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.csv.gz", [note(10, n) for n in range(1, 6)])
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(damaged(text)[kind]))
    with caplog.at_level(logging.DEBUG), pytest.raises(DataError) as error:
        prepare(tmp_path / "set", {"notes": corpus_of(path)}, ByteLevel(), POLICY)

    output = capsys.readouterr()
    said = f"{error.value} {error.value.__cause__} {caplog.text} {output.out} {output.err}"
    assert "a.csv.gz" in str(error.value)
    assert not [word for word in ("Zebrafish", "secret", "daily", "___") if word in said]


def test_all_notes_of_a_patient_share_a_split_over_both_kinds(tmp_path: Path) -> None:
    rows = [note(s, n, f"{NOTE} {s} {n}") for s in range(100, 160) for n in range(3)]
    reports = [row | {"note_id": row["note_id"].replace("DS", "RR")} for row in rows]
    reports = [row | {"text": f"Report. {row['text']}"} for row in reports]
    corpora = {
        "discharge": corpus_of(write(tmp_path / "discharge.csv.gz", rows)),
        "radiology": corpus_of(write(tmp_path / "radiology.csv.gz", reports)),
    }
    prepare(tmp_path / "set", corpora, ByteLevel(), StorePolicy(300, 300))
    patients = {document_key(row["note_id"]): row["subject_id"] for row in rows + reports}
    seen: dict[str, list[int]] = {}
    for split in SPLITS:
        stores = open_stores([str(tmp_path / "set" / name) for name in corpora])
        seen[split] = [patients[key] for key in TokenSplit.open(stores, split).keys.tolist()]

    assert sorted(p for split in SPLITS for p in seen[split]) == sorted(list(range(100, 160)) * 6)
    assert all(len(seen[split]) == 6 * len(set(seen[split])) > 0 for split in SPLITS)


def test_real_layout(real_data: Path) -> None:
    """Counted with csv alone: notes and patients of the two files."""
    for name, kind in (("discharge", "DS"), ("radiology", "RR")):
        path = real_data / "mimic-iv-note-format" / f"{name}.csv.gz"
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            raw = list(csv.DictReader(file))
        kept = [row for row in raw if len(row["text"].strip()) >= 200]
        documents = [row for row in read(path) if isinstance(row, Document)]

        assert [d.id for d in documents] == [row["note_id"] for row in kept]
        assert [d.group for d in documents] == [row["subject_id"] for row in kept]
        assert [d.text for d in documents] == [row["text"].strip() for row in kept]
        assert all(f"-{kind}-" in d.id for d in documents)
        assert any("\n" in d.text for d in documents)
