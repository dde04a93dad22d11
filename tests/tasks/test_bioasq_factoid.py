"""BioASQ factoid questions."""

import json
from pathlib import Path
from typing import Any

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.tasks.bioasq import BioASQFactoid
from biomamba.tasks.prompt import Prompt
from biomamba.tasks.task import EMPTY, Prediction

PROMPT = Prompt(name="p", template="{question} {context} Answer:", shrink={"context": "right"})
ANSWERS = [[["Ixodes", "Ixodes ricinus"]], [["KRAS"]], [["4  %\n"]]]
COUNTS = {"12B1_golden.json": 21, "12B2_golden.json": 19}


def task(path: Path, **settings: Any) -> BioASQFactoid:
    return BioASQFactoid(train_files=[], test_files=[str(path)], prompt=PROMPT, **settings)


def written(tmp_path: Path, **settings: Any) -> BioASQFactoid:
    questions = [
        {"id": str(n), "body": "Which?", "type": "factoid", "exact_answer": answer}
        for n, answer in enumerate(ANSWERS)
    ]
    path = tmp_path / "golden.json"
    path.write_text(json.dumps({"questions": questions}), encoding="utf-8")
    return task(path, **settings)


def test_the_first_synonym_is_the_target_on_one_line(tmp_path: Path) -> None:
    items = written(tmp_path).held_out().items

    assert [item.target for item in items] == ["Ixodes", "KRAS", "4  %"]
    assert [item.references for item in items] == ANSWERS


def test_five_candidates_are_asked_for_on_one_line_each(tmp_path: Path) -> None:
    answer = written(tmp_path).answer

    assert (answer.num_candidates, answer.stop) == (5, ("\n",))


def test_figures_of_ranked_answers(tmp_path: Path) -> None:
    found = written(tmp_path)
    predictions = [
        Prediction(id="0", text="x", candidates=[" x", "ixodes RICINUS "]),
        Prediction(id="1", text="KRAS."),
        Prediction(id="2", text="", status=EMPTY),
    ]

    values = {m.name: m.value for m in found.measures(found.held_out().items, predictions)}

    assert values == {
        "mrr": pytest.approx(1 / 6),
        "strict_accuracy": 0.0,
        "lenient_accuracy": pytest.approx(1 / 3),
        "unparsable_ratio": pytest.approx(1 / 3),
    }


def test_taking_full_stops_off_is_another_protocol(tmp_path: Path) -> None:
    found = written(tmp_path, cleaning="full_stop", protocol="own")
    predictions = [Prediction(id=str(n), text="KRAS.") for n in range(3)]

    mrr = found.measures(found.held_out().items, predictions)[0]

    assert mrr.value == pytest.approx(1 / 3)
    with pytest.raises(ConfigError, match="cleaning is full_stop and protocol"):
        written(tmp_path, cleaning="full_stop")


@pytest.mark.parametrize("number", [0, 6])
def test_more_than_five_candidates_are_refused(tmp_path: Path, number: int) -> None:
    with pytest.raises(ConfigError, match=f"num_candidates must be .* at most 5, found {number}"):
        written(tmp_path, num_candidates=number)


@pytest.mark.parametrize("name", COUNTS)
def test_the_golden_files(real_data: Path, name: str) -> None:
    found = task(real_data / "bioasq-12b-golden" / name).held_out()

    assert len(found.items) == COUNTS[name]
    assert not found.rejects
    assert all(len(item.references) == 1 for item in found.items)
