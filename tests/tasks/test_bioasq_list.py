"""BioASQ list questions."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from biomamba.tasks.bioasq import BioASQList, parse_list
from biomamba.tasks.prompt import Prompt
from biomamba.tasks.task import Prediction

PROMPT = Prompt(name="p", template="{question} {context} Answer:", shrink={"context": "right"})
ANSWERS = [[["KRAS", "K-ras"], ["NRAS"]], ["a,\nb", "3,4-MDMA"], [["one"]]]
COUNTS = {"12B1_golden.json": 21, "12B2_golden.json": 18}


def task(path: Path, **settings: Any) -> BioASQList:
    return BioASQList(train_files=[], test_files=[str(path)], prompt=PROMPT, **settings)


def written(tmp_path: Path) -> BioASQList:
    questions = [
        {"id": str(n), "body": "Which?", "type": "list", "exact_answer": answer}
        for n, answer in enumerate(ANSWERS)
    ]
    path = tmp_path / "golden.json"
    path.write_text(json.dumps({"questions": questions}), encoding="utf-8")
    return task(path)


def test_the_target_is_a_line_for_each_group(tmp_path: Path) -> None:
    items = written(tmp_path).held_out().items

    assert [item.target for item in items] == ["KRAS\nNRAS", "a, b\n3,4-MDMA", "one"]
    assert [item.references for item in items][1] == [["a,\nb"], ["3,4-MDMA"]]


@pytest.mark.parametrize(
    "text",
    ["KRAS\nNRAS", "- KRAS\n- NRAS\n", "1. KRAS\n2) NRAS", " KRAS; NRAS;", "* KRAS\n\n(2) NRAS"],
)
def test_lists_are_read_in_the_forms_that_models_write(text: str) -> None:
    assert parse_list(text) == ["KRAS", "NRAS"]


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("IL-6, IL-8", ["IL-6, IL-8"]),
        ("3,4-MDMA", ["3,4-MDMA"]),
        ("a - b; 12.5 mg", ["a - b", "12.5 mg"]),
        ("x; y\nz", ["x; y", "z"]),
        ("b; a; B; a", ["b", "a"]),
        ("", []),
        (" ;\n ;", [";", ";"][:1]),
    ],
)
def test_only_lines_and_semicolons_separate(text: str, entries: list[str]) -> None:
    assert parse_list(text) == entries


def test_reading_undoes_writing() -> None:
    rng = random.Random(0)
    for _ in range(200):
        names = rng.sample(["KRAS", "IL-6", "3,4-MDMA", "type 2; early", "a - b", "x."], k=4)
        assert parse_list("\n".join(names)) == names


def test_a_full_stop_is_taken_off_where_that_is_asked_for() -> None:
    assert parse_list("KRAS; NRAS.", "full_stop") == ["KRAS", "NRAS"]


def test_figures_are_means_over_questions(tmp_path: Path) -> None:
    found = written(tmp_path)
    texts = ["k-ras\nx", "", "one"]
    predictions = [Prediction(id=str(n), text=text) for n, text in enumerate(texts)]

    values = {m.name: m.value for m in found.measures(found.held_out().items, predictions)}

    # First question: one of two answers right, one of two groups found.
    assert values == {
        "list_f1": pytest.approx((0.5 + 0 + 1) / 3),
        "list_precision": pytest.approx((0.5 + 0 + 1) / 3),
        "list_recall": pytest.approx((0.5 + 0 + 1) / 3),
        "unparsable_ratio": pytest.approx(1 / 3),
    }


@pytest.mark.parametrize("name", COUNTS)
def test_the_golden_files_and_a_model_that_knows_them(real_data: Path, name: str) -> None:
    found = task(real_data / "bioasq-12b-golden" / name)
    held_out = found.held_out()

    predictions = [Prediction(id=item.id, text=item.target) for item in held_out.items]

    assert len(held_out.items) == COUNTS[name]
    assert not held_out.rejects
    assert [m.value for m in found.measures(held_out.items, predictions)] == [1, 1, 1, 0]
