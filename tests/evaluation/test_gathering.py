"""Models of several evaluations under names, their seeds together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from biomamba.evaluation.comparison import Models, gather, gather_named
from biomamba.evaluation.stored_run import Scored, StoredModel
from biomamba.metrics.measure import mean
from biomamba.runtime.errors import DataError


def make_scored(subject: str, value: float = 0.0, prompt: str = "v1") -> Scored:
    return Scored(
        subject=subject,
        protocol={"prompt": prompt},
        tokenizer=None,
        items=["x", "y"],
        units=["x", "y"],
        measures=[mean("score", np.array([value, 1.0]))],
    )


def make_model(
    label: str, checkpoint: str, *scored: Scored, path: Path | None = None
) -> StoredModel:
    known = {each.subject: each for each in scored or (make_scored("qa"),)}
    return StoredModel(label, checkpoint, None if path is None else str(path), known)


def train(folder: Path, seed: int, lr: float = 0.1) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(f"seed: {seed}\nlr: {lr}\n")
    return folder / "model"


def shape(models: Models) -> dict[str, list[str]]:
    return {name: [trained.checkpoint for trained in seeds] for name, seeds in models.items()}


def test_one_evaluation_of_two_models_keeps_their_labels() -> None:
    found = gather({Path("e"): [make_model("base", "1"), make_model("adapted", "2")]})
    assert shape(found) == {"base": ["1"], "adapted": ["2"]}


def test_a_base_model_of_two_evaluations_is_one_model_and_labels_become_folders() -> None:
    found = gather(
        {
            Path("runs/a"): [make_model("base", "1"), make_model("adapted", "2")],
            Path("runs/b"): [make_model("base", "1"), make_model("adapted", "3")],
        }
    )
    assert shape(found) == {"base": ["1"], "a": ["2"], "b": ["3"]}


def test_names_are_different_whatever_the_folders_are_called() -> None:
    evaluations = {
        Path(folder) / "e": [make_model("base", f"1{folder}"), make_model("model", f"2{folder}")]
        for folder in ("x", "y")
    }
    assert shape(gather(evaluations)) == {
        "e/base": ["1x"],
        "e": ["2x"],
        "y/e/base": ["1y"],
        "y/e/model": ["2y"],
    }


def test_what_was_scored_of_one_checkpoint_in_two_evaluations_is_put_together() -> None:
    found = gather(
        {
            Path("a"): [make_model("model", "1", make_scored("pubmed"))],
            Path("b"): [make_model("model", "1", make_scored("qa"), make_scored("pubmed"))],
        }
    )
    assert list(found["model"][0].scored) == ["pubmed", "qa"]


@pytest.mark.parametrize("again", [make_scored("qa", 0.5), make_scored("qa", prompt="v2")])
def test_one_checkpoint_scored_in_two_ways_is_refused(again: Scored) -> None:
    evaluations = {
        Path("a"): [make_model("model", "1")],
        Path("b"): [make_model("model", "1", again)],
    }
    with pytest.raises(DataError, match=r"qa of one checkpoint \(1\) was scored in .* in a and b"):
        gather(evaluations)


@pytest.mark.parametrize("order", [1, -1])
def test_a_record_that_does_not_know_does_not_hide_behind_another(order: int) -> None:
    found = [
        [make_model("base", "1", replace(make_scored("qa"), filtered=word))]
        for word in ("filtered", "unknown")
    ][::order]
    (base,) = gather({Path("a"): found[0], Path("b"): found[1]}).values()

    assert base[0].scored["qa"].filtered == "unknown"


def test_seeds_of_one_recipe_are_one_model(tmp_path: Path) -> None:
    paths = [train(tmp_path / "sft" / f"s{seed}", seed) for seed in (1, 2, 3)]
    paths += [train(tmp_path / "sft" / f"t{seed}", seed, lr=0.3) for seed in (1, 2)]
    paths += [train(tmp_path / "other", 1, lr=0.2)]
    evaluations = {
        Path(f"e{n}"): [make_model("model", str(n), path=path)] for n, path in enumerate(paths)
    }
    assert shape(gather(evaluations)) == {"sft": ["0", "1", "2"], "e3": ["3", "4"], "e5": ["5"]}


def test_one_recipe_with_one_seed_twice_are_two_models(tmp_path: Path) -> None:
    paths = [train(tmp_path / name, seed=1) for name in "ab"]
    evaluations = {
        Path(f"e{n}"): [make_model("model", str(n), path=path)] for n, path in enumerate(paths)
    }
    assert shape(gather(evaluations)) == {"e0": ["0"], "e1": ["1"]}


def test_given_names_take_the_main_model_of_each_evaluation() -> None:
    a, b, c = Path("a"), Path("b"), Path("c")
    evaluations = {
        a: [make_model("base", "0"), make_model("adapted", "1")],
        b: [make_model("model", "2"), make_model("odd", "5")],
        c: [make_model("odd", "3"), make_model("more", "4")],
    }
    found = gather_named({"tuned": [a, b], "odd": [c]}, evaluations)
    assert shape(found) == {"tuned": ["1", "2"], "odd": ["3"]}


def test_one_checkpoint_is_not_two_seeds() -> None:
    evaluations = {Path(name): [make_model("model", "1")] for name in "ab"}
    with pytest.raises(DataError, match=r"runs\.x: two of its evaluations are of the same"):
        gather_named({"x": [Path("a"), Path("b")]}, evaluations)
