"""Sections from dialogues of MTS-Dialog."""

import csv
from pathlib import Path

import pytest

from biomamba.runtime.errors import DataError
from biomamba.tasks.dialogues import SECTIONS, MtsDialog
from biomamba.tasks.prompt import Prompt
from biomamba.tasks.task import Prediction

PROMPT = Prompt(name="p", template="{section}\n{dialogue}\nText:", shrink={"dialogue": "middle"})
HEADER = ("ID", "section_header", "section_text", "dialogue")
ROWS = [
    ("0", "CC", "Cough for 3 days.", "Doctor: Hi? \r\nPatient: Three days of cough. \r\n"),
    ("1", "ALLERGY", "No known allergies.", "Doctor: Allergies?\nPatient: No."),
    ("2", "CC", "", "Doctor: Hi"),
]
REAL = {
    "train": ("MTS-Dialog-TrainingSet.csv", 1200),
    "val": ("MTS-Dialog-ValidationSet.csv", 100),
    "test": ("MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv", 200),
}


def write(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([HEADER, *rows])
    return path


def task(train: Path, val: Path, test: Path) -> MtsDialog:
    return MtsDialog(
        name="mts_dialog",
        protocol="p",
        prompt=PROMPT,
        access="open",
        max_new_tokens=9,
        train_files=[str(train)],
        val_files=[str(val)],
        test_files=[str(test)],
    )


def test_an_item_is_named_by_file_and_id(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", ROWS)
    test = write(tmp_path / "test.csv", [("0", "CC", "Pain.", "Doctor: Where?")])
    mts = task(train, test, test)

    found = mts.items("train")

    assert [item.id for item in found.items] == ["train-0", "train-1"]
    assert found.items[0].parts == {
        "dialogue": "Doctor: Hi?\nPatient: Three days of cough.",
        "section": "chief complaint",
    }
    assert found.items[0].facts == {"section_header": "CC", "file": "train.csv"}
    assert found.rejects == {"empty section_text": 1}


def test_a_header_that_is_not_known_is_damage(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", [("0", "XYZ", "secret text", "secret talk")])

    with pytest.raises(DataError, match="unknown section_header: 1") as caught:
        task(train, train, train).items("train")

    assert "secret" not in str(caught.value)


def test_an_id_twice_in_a_file_is_counted(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", [ROWS[0], ROWS[0]])

    found = task(train, train, train).items("train")

    assert len(found.items) == 1
    assert found.rejects == {"id of another row": 1}


def test_scores_of_perfect_constant_empty_and_shuffled_texts(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", ROWS)
    mts = task(train, train, train)
    items = mts.items("train").items

    def score(texts: list[str]) -> dict[str, float]:
        given = [Prediction(id=i.id, text=t) for i, t in zip(items, texts, strict=True)]
        return {measure.name: measure.value for measure in mts.measures(items, given)}

    perfect = [item.target for item in items]
    assert score(perfect)["rouge1_f"] == 1
    # The dialogue spells the number out, which supports it.
    assert score(perfect)["unsupported_number_ratio"] == 0
    assert score(perfect[::-1])["rouge1_f"] == 0
    assert score([perfect[0]] * 2)["rouge1_f"] == 0.5
    assert score(["", ""])["rouge1_f"] == 0
    assert "section_coverage" not in score(perfect)
    assert "section_coverage" not in score(["Plan:\nx"] * 2)


def test_real_files_have_their_counts(real_data: Path) -> None:
    folder = real_data / "mts-dialog"
    files = {split: folder / name for split, (name, _) in REAL.items()}
    if not all(file.is_file() for file in files.values()):
        pytest.skip(f"no MTS-Dialog in {folder}")
    mts = task(files["train"], files["val"], files["test"])

    found = {"train": mts.items("train"), "val": mts.items("val"), "test": mts.held_out()}

    assert {split: len(each.items) for split, each in found.items()} == {
        split: count for split, (_, count) in REAL.items()
    }
    # One dialogue of the training file is, word for word, in this test file too.
    assert found["train"].rejects == {"dialogue of a split held out": 1}
    assert not found["val"].rejects | found["test"].rejects
    headers = {item.facts["section_header"] for item in found["train"].items}
    assert headers == set(SECTIONS)
