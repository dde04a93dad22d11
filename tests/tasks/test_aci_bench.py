"""Notes from dialogues of ACI-Bench."""

import csv
from pathlib import Path

import pytest

from biomamba.tasks.dialogues import AciBench
from biomamba.tasks.prompt import Prompt
from biomamba.tasks.task import Prediction

PROMPT = Prompt(name="p", template="{dialogue}\nNote:", shrink={"dialogue": "middle"})
ROWS = [
    ("aci", "D1", "[doctor] any fever ?\n[patient] no", "CHIEF COMPLAINT\n\nAnnual exam."),
    ("aci", "D2", "[doctor] hi", "PLAN\n\nRest."),
    ("aci", "D3", "  ", "PLAN"),
    ("aci", "D4", "[doctor] hi", ""),
]


def task(train: Path, test: Path) -> AciBench:
    return AciBench(
        name="aci_bench",
        protocol="p",
        prompt=PROMPT,
        access="open",
        max_new_tokens=9,
        train_files=[str(train)],
        val_files=[str(train)],
        test_files=[str(test)],
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([("dataset", "encounter_id", "dialogue", "note"), *ROWS])
    return path


def test_an_item_is_a_dialogue_and_its_note(file: Path) -> None:
    found = task(file, file).items("train")

    assert [item.id for item in found.items] == ["D1", "D2"]
    assert found.items[0].parts == {"dialogue": ROWS[0][2]}
    assert found.items[0].target == ROWS[0][3]
    assert found.items[0].references == [[ROWS[0][3]]]
    assert found.items[0].facts == {"dataset": "aci", "file": "train.csv"}
    assert found.rejects == {"empty dialogue": 1, "empty note": 1}


def test_scores_of_perfect_empty_and_shuffled_notes(file: Path) -> None:
    aci = task(file, file)
    items = aci.items("train").items

    def score(texts: list[str]) -> dict[str, float]:
        given = [Prediction(id=i.id, text=t) for i, t in zip(items, texts, strict=True)]
        return {measure.name: measure.value for measure in aci.measures(items, given)}

    perfect, shuffled = [item.target for item in items], [item.target for item in items][::-1]
    assert score(perfect)["rouge1_f"] == score(perfect)["section_coverage"] == 1
    assert score(shuffled)["rouge1_f"] == score(shuffled)["section_coverage"] == 0
    assert score([perfect[0]] * 2)["rouge1_f"] == 0.5
    assert score(["", ""])["rouge1_f"] == 0


def test_real_files_have_their_counts(real_data: Path) -> None:
    folder = real_data / "aci-bench"
    if not (folder / "train.csv").is_file():
        pytest.skip(f"no ACI-Bench in {folder}")
    aci = task(folder / "train.csv", folder / "valid.csv")

    assert len(aci.items("train").items) == 67
    assert not aci.items("train").rejects
    assert len(task(folder / "valid.csv", folder / "train.csv").items("val").items) == 20
