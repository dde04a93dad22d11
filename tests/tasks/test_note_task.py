"""Which notes a split has."""

import csv
from pathlib import Path

import pytest

from biomamba.data.corpora.table import MimicNotes
from biomamba.data.document import SplitRule, document_key
from biomamba.data.rows import LocalRows
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.clinical_notes import NoteCompletion
from biomamba.tasks.prompt import Prompt

FIXTURES = Path(__file__).parents[1] / "fixtures" / "clinical"
PROMPT = Prompt(name="p", template="{prefix}", open_end=True, shrink={"prefix": "left"})
SPLITS = ("train", "val", "test")
SPLIT = SplitRule(val_permille=300, test_permille=300)
SECRET = "Mr. Smith of Elm Street"


def task(file: Path, *, limit: int | None = None, **changes: str) -> NoteCompletion:
    notes = MimicNotes(
        rows=LocalRows(files=[str(file)]), licence=changes.get("licence", "open"), min_chars=20
    )
    return NoteCompletion(
        name="notes",
        protocol="p",
        prompt=PROMPT,
        access=changes.get("access", "restricted"),
        max_new_tokens=9,
        notes=notes,
        split=SPLIT,
        max_train_items=limit,
        max_val_items=limit,
        max_test_items=limit,
        prefix_ratio=0.5,
        max_prefix_chars=None,
        max_target_chars=None,
        min_prefix_chars=1,
        min_target_chars=1,
    )


def write(path: Path, notes: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["note_id", "subject_id", "text"])
        for number, (subject, text) in enumerate(notes):
            writer.writerow([f"{subject}-DS-{number}", subject, text])
    return path


def patients_of(split: str, num: int) -> list[str]:
    names = (str(number) for number in range(10_000, 99_999))
    found = (name for name in names if SPLIT.split_of(document_key(name)) == split)
    return [next(found) for _ in range(num)]


def ids(notes: NoteCompletion) -> dict[str, list[str]]:
    found = {split: notes.items(split) for split in ("train", "val")} | {"test": notes.held_out()}
    return {split: [item.id for item in each.items] for split, each in found.items()}


def test_all_notes_of_a_patient_are_in_the_split_of_the_patient(tmp_path: Path) -> None:
    patients = {split: patients_of(split, 3) for split in SPLITS}
    rows = [
        (p, f"note {p} {n} of some words")
        for n in range(3)
        for each in patients.values()
        for p in each
    ]

    found = ids(task(write(tmp_path / "a.csv", rows)))

    for split in SPLITS:
        assert {name.split("-")[0] for name in found[split]} == set(patients[split])
        assert len(found[split]) == 9


def test_the_split_of_a_note_does_not_depend_on_other_rows(tmp_path: Path) -> None:
    patients = [p for split in SPLITS for p in patients_of(split, 4)]
    rows = [(p, f"note {p} of quite some words") for p in patients]
    whole = ids(task(write(tmp_path / "a.csv", rows)))
    half = ids(task(write(tmp_path / "b.csv", rows[::2])))

    kept = {f"{p}" for p, _ in rows[::2]}
    for split in SPLITS:
        assert [name.split("-")[0] for name in half[split]] == [
            p for name in whole[split] if (p := name.split("-")[0]) in kept
        ]


def test_a_text_in_two_splits_stays_in_the_held_out_one(tmp_path: Path) -> None:
    train, val, test = (patients_of(split, 2) for split in SPLITS)
    same = "normal chest of both sides"
    rows = [(train[0], same), (val[0], same), (test[0], same), (test[1], same)]
    rows += [(p, f"another note of {p}, long enough") for p in (train[1], val[1])]
    notes = task(write(tmp_path / "a.csv", rows))

    assert notes.items("train").rejects == {"text of a note in a split held out": 1}
    assert notes.items("val").rejects == {"text of a note in a split held out": 1}
    assert notes.held_out().rejects == {"text of another note": 1}
    texts = {s: {i.parts["prefix"] + i.target for i in notes._read(s).items} for s in SPLITS}
    assert texts["train"].isdisjoint(texts["test"])
    assert len(notes.held_out().items) == 1


def test_case_and_spacing_make_no_other_text(tmp_path: Path) -> None:
    (train, other), (test,) = patients_of("train", 2), patients_of("test", 1)
    rows = [(train, "Normal chest,\nof both sides."), (test, "NORMAL chest of  both sides")]
    notes = task(write(tmp_path / "a.csv", [*rows, (other, "normal chest of one side only")]))

    assert [item.group for item in notes.items("train").items] == [other]
    assert [item.group for item in notes.held_out().items] == [test]


def test_limits_keep_notes_with_the_smallest_keys(tmp_path: Path) -> None:
    rows = [(p, f"note {p} of quite some words") for p in patients_of("train", 9)]
    rows += [(patients_of("val", 1)[0], "note of val, quite long")]
    file = write(tmp_path / "a.csv", rows)
    whole = [item.id for item in task(file).items("train").items]

    chosen = [item.id for item in task(file, limit=4).items("train").items]

    assert set(chosen) == set(sorted(whole, key=document_key)[:4])


def test_the_audit_finds_the_notes_of_items(tmp_path: Path) -> None:
    rows = [(p, f"{p} one two three four five") for p in patients_of("train", 3)]
    notes = task(write(tmp_path / "a.csv", rows))
    items = notes.items("train").items

    (case,) = notes.audited([items[1]])

    assert case.item == items[1]
    assert case.withheld == {"rest": items[1].references[0][0]}


def test_broken_quoting_is_told_without_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [(p, f"{SECRET} {p}") for p in patients_of("train", 3)])
    broken = path.read_text().replace(f",{SECRET}", f',"{SECRET}', 1)
    path.write_text(broken)

    with pytest.raises(DataError, match=r"a\.csv") as caught:
        task(path).items("train")

    assert SECRET not in str(caught.value)


def test_shifted_columns_are_damage_told_without_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"note_id,subject_id,text\n{SECRET},10000,{SECRET}\n")

    with pytest.raises(DataError, match="malformed note_id: 1") as caught:
        task(path).items("train")

    assert SECRET not in str(caught.value)


def test_notes_of_physionet_are_not_open() -> None:
    file = FIXTURES / "discharge.csv"

    with pytest.raises(ConfigError, match="set access=restricted"):
        task(file, licence="PhysioNet Credentialed", access="open")
    assert task(file, licence="PhysioNet Credentialed").access == "restricted"


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_train_items of notes must be .*, found 0"):
        task(FIXTURES / "discharge.csv", limit=0)


def test_files_are_hashed_by_name() -> None:
    assert list(task(FIXTURES / "radiology.csv").files) == ["radiology.csv"]


def test_templated_reports_are_kept_once() -> None:
    notes = task(FIXTURES / "radiology.csv")
    rejects = [notes._read(split).rejects for split in ("train", "test")]

    # Four patients share one report: two or more splits lose it, one keeps it.
    assert sum(each.total() for each in rejects) >= 1
    texts = [i.parts["prefix"] + i.target for s in ("train", "test") for i in notes._read(s).items]
    assert len(set(texts)) == len(texts)
