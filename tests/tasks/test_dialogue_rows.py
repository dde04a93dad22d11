"""Tasks whose official files are the splits."""

import csv
from pathlib import Path

import pytest

from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.dialogues import AciBench
from biomamba.tasks.prompt import Prompt

PROMPT = Prompt(name="p", template="{dialogue}\nNote:", shrink={"dialogue": "middle"})


def write(path: Path, names: list[str]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["dataset", "encounter_id", "dialogue", "note"])
        writer.writerows(["aci", name, f"talk of {name}", f"note of {name}"] for name in names)
    return str(path)


def task(folder: Path, test: list[str], test_files: list[str] | None = None) -> AciBench:
    files = [write(folder / "test.csv", test)] if test_files is None else test_files
    return AciBench(
        name="aci",
        protocol="p",
        prompt=PROMPT,
        access="open",
        max_new_tokens=9,
        train_files=[write(folder / "train.csv", ["a", "b"])],
        val_files=[write(folder / "valid.csv", ["c"])],
        test_files=files,
    )


def test_each_split_is_its_files(tmp_path: Path) -> None:
    aci = task(tmp_path, ["d", "e"])

    assert [item.id for item in aci.items("train").items] == ["a", "b"]
    assert [item.id for item in aci.items("val").items] == ["c"]
    assert [item.id for item in aci.held_out().items] == ["d", "e"]


def test_a_dialogue_of_a_later_split_is_not_learned(tmp_path: Path) -> None:
    aci = task(tmp_path, ["d"])
    with (tmp_path / "train.csv").open("a") as out:
        out.write("aci,x,TALK of\u00a0d!,Note of d.\naci,y,talk of c,Note of C\n")

    found = aci.items("train")

    assert [item.id for item in found.items] == ["a", "b"]
    assert found.rejects == {"dialogue of a split held out": 2}


def test_the_test_split_is_no_split_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="split is 'test'"):
        task(tmp_path, ["d"]).items("test")


def test_an_id_in_train_and_test_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="b is in train and in test"):
        task(tmp_path, ["d", "b"]).held_out()


def test_training_spares_a_test_file_that_is_absent_and_says_so(tmp_path: Path) -> None:
    aci = task(tmp_path, [], [str(tmp_path / "gone.csv")])

    assert len(aci.items("train").items) == 2
    assert aci.files["gone.csv"] == "absent"
    assert len(aci.files["train.csv"]) == 64
    with pytest.raises(DataError, match=r"gone\.csv does not exist"):
        aci.held_out()


def test_a_split_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="test_files of aci is empty"):
        task(tmp_path, [], [])
