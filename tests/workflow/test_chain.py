"""Entries become steps in an order in which each can run, with folders and values filled in."""

from typing import Any

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.workflow.chain import Chain, Step


def entry(*overrides: str, program: str = "train", **keys: Any) -> dict[str, Any]:
    return {"program": program, "minutes": 1, "overrides": list(overrides), **keys}


def expanded(steps: dict[str, Any], **keys: Any) -> dict[str, Step]:
    chain = Chain(name="c", title="t", steps=steps, **keys)
    return {step.name: step for step in chain.expand("runs/c")}


def test_a_step_comes_behind_the_one_above() -> None:
    steps = expanded({"a": entry(), "b": entry(), "c": entry(after=[]), "d": entry(after=["a"])})

    assert {name: step.after for name, step in steps.items()} == {
        "a": (),
        "b": ("a",),
        "c": (),
        "d": ("a",),
    }


def test_a_named_folder_is_filled_in_and_comes_before() -> None:
    steps = expanded({"a": entry(), "b": entry(), "c": entry("x={a}/model", "y={output}/z")})

    assert steps["c"].overrides == ("x=runs/c/a/model", "y=runs/c/c/z")
    assert steps["c"].after == ("b", "a")


def test_steps_are_ordered_by_what_they_need_and_else_as_written() -> None:
    found = expanded({"z": entry(after=["b"]), "b": entry(after=[]), "a": entry(after=[])})

    assert list(found) == ["b", "z", "a"]


def test_each_value_makes_a_step_that_builds_upon_its_twin() -> None:
    seeds = {"seed": [1, 2]}
    steps = expanded(
        {
            "base": entry(),
            "train": entry("seed={seed}", each=seeds),
            "score": entry("checkpoint={train}/model", each=seeds | {"split": ["val", "test"]}),
            "report": entry("runs=[{train}]", program="report"),
        }
    )

    assert list(steps) == [
        "base",
        "train-1",
        "train-2",
        "score-1-val",
        "score-1-test",
        "score-2-val",
        "score-2-test",
        "report",
    ]
    assert steps["train-2"].overrides == ("seed=2",)
    assert steps["score-2-val"].after == ("train-2",)
    assert steps["score-2-val"].overrides == ("checkpoint=runs/c/train-2/model",)
    assert steps["report"].overrides == ("runs=[runs/c/train-1,runs/c/train-2]",)
    assert set(steps["report"].after) == set(steps) - {"base", "report"}


def test_a_value_is_written_as_hydra_reads_it() -> None:
    assert expanded({"a": entry("lr={lr}", each={"lr": [1e-3]})})["a-0.001"].overrides == (
        "lr=0.001",
    )


def test_names_hold_no_folders() -> None:
    steps = expanded({"a": entry(each={"name": ["x/y z"]}, output="runs/{name}")})

    assert list(steps) == ["a-x_y_z"]
    assert steps["a-x_y_z"].output == "runs/x/y z"


def test_values_of_the_chain_are_filled_in_everywhere() -> None:
    steps = expanded({"a": entry("+experiment=x_{scale}")}, values={"scale": "130m"})

    assert steps["a"].overrides == ("+experiment=x_130m",)


def test_braces_of_an_override_stay() -> None:
    steps = expanded({"a": entry("weights={pubmed: 0.8, web: 0.2}", "runs={a:[x]}")})

    assert steps["a"].overrides == ("weights={pubmed: 0.8, web: 0.2}", "runs={a:[x]}")


def test_shared_overrides_reach_programs_that_read_data_and_stand_first() -> None:
    chain = Chain(name="c", title="t", steps={"a": entry("x=2"), "b": entry(program="report")})
    first, second = chain.expand("runs", ("x=1",))

    assert first.overrides == ("x=1", "x=2")
    assert second.overrides == ()


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({}, "no steps"),
        ({"A": entry()}, "small letters"),
        ({"a": entry(after=["x"])}, "steps.a.after: unknown step 'x'"),
        ({"a": entry("{b}")}, "steps.a: unknown word 'b'"),
        ({"a": entry(after=["b"]), "b": entry(after=["a"])}, "in a circle"),
        ({"a": entry("{a}")}, "in a circle"),
        ({"a": entry("{b}"), "b": entry(after=["a"])}, "in a circle"),
        ({"a": entry(output="o"), "b": entry(output="o")}, "a and b both write o"),
        ({"a": entry(), "b": entry(each={"a": [1]})}, "names both a value and a step"),
        (
            {"a": entry(each={"seed": [1]}), "b": entry(each={"seed": [2]})},
            "steps.b: a has no step for seed=2",
        ),
    ],
)
def test_a_chain_that_cannot_run_is_refused(steps: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        expanded(steps)
