"""Plain values out of a composed config."""

from omegaconf import OmegaConf

from biomamba.config.annotations import UNRESOLVED, plain_tree
from biomamba.config.schema import Paths


def test_every_missing_value_is_listed() -> None:
    cfg = OmegaConf.create({"a": "???", "b": {"c": "???"}, "d": [1, "???"]})

    tree, problems = plain_tree(cfg)

    assert [problem.split(":")[0] for problem in problems] == ["a", "b.c", "d.1"]
    assert tree == {"a": UNRESOLVED, "b": {"c": UNRESOLVED}, "d": [1, UNRESOLVED]}


def test_reference_to_a_missing_value_is_not_a_second_problem() -> None:
    tree, problems = plain_tree(OmegaConf.create({"a": "???", "b": "${a}"}))

    assert len(problems) == 1
    assert tree["b"] is UNRESOLVED


def test_interpolations_are_resolved() -> None:
    tree, problems = plain_tree(OmegaConf.create({"a": {"b": 1}, "c": "${a}", "d": "x${a.b}"}))

    assert tree == {"a": {"b": 1}, "c": {"b": 1}, "d": "x1"}
    assert problems == []


def test_each_broken_interpolation_is_listed() -> None:
    _, problems = plain_tree(OmegaConf.create({"a": "${nope}", "b": {"c": "${neither.one}"}}))

    assert problems == [
        "a: Interpolation key 'nope' not found",
        "b.c: Interpolation key 'neither.one' not found",
    ]


def test_key_added_to_a_typed_node_is_a_problem() -> None:
    cfg = OmegaConf.create({"paths": OmegaConf.structured(Paths("data", "run"))})
    OmegaConf.update(cfg, "paths.data_dri", "x", force_add=True)

    _, problems = plain_tree(cfg)

    assert problems == [
        "paths.data_dri: unknown key 'data_dri' (did you mean 'data_dir'?); "
        "accepted: data_dir, raw_dir, run_dir"
    ]
