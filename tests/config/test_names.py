"""Names that become part of a path."""

from typing import Any

import pytest

from biomamba.config.safety import name_problems

GOOD = ["first", "2025-01-31_10-11-12", "lr=1e-3,seed=2", "a.b+c@d", "_x", "17", "x" * 200]
BAD = [
    "", " ", ".", "..", "../../x", "a/b", "/", "a\\b", "-x", ".hidden", "a\nb", "a\x00b", "a\tb",
    "${x}", "$HOME", "~", "a b", "a:b", "x" * 201, "é", "\u202e", "a*", "a\n",
]  # fmt: skip


@pytest.mark.parametrize("value", GOOD)
def test_plain_names_pass(value: str) -> None:
    tree: dict[str, Any] = {"run_id": value, "name": f"cpt/{value}", "tasks": {value: {}}}

    assert list(name_problems(tree)) == []


@pytest.mark.parametrize("value", BAD)
def test_other_names_are_refused_with_the_rule(value: str) -> None:
    for key, tree in {
        "run_id": {"run_id": value},
        "tasks": {"tasks": {value: {}}},
        "corpora": {"corpora": {value: {}}},
        "sources": {"sources": {value: []}},
        "data.sources": {"data": {"sources": {value: []}}},
        "cleaning.firewall.benchmarks": {"cleaning": {"firewall": {"benchmarks": {value: {}}}}},
    }.items():
        (problem,) = name_problems(tree)
        assert problem.startswith(key)
        assert "A-Z a-z 0-9 _ . + = , @ -" in problem
        assert problem.isprintable()


@pytest.mark.parametrize("value", ["", "/x", "x/", "a//b", "../x", "a/../b", "./a", "a/-b"])
def test_a_name_with_folders_stays_below_its_own(value: str) -> None:
    (problem,) = name_problems({"name": value})

    assert problem.startswith("name: ")


@pytest.mark.parametrize(
    "value", ["", " ", ".", "..", "a/..", "/", "a\nb", "-x", "${x}", "x" * 256]
)
def test_run_folder_is_a_folder_of_its_own(value: str) -> None:
    (problem,) = name_problems({"paths": {"run_dir": value}})

    assert problem.startswith("paths.run_dir: ")


@pytest.mark.parametrize("value", ["runs/a", "/scratch/me/runs/a", "../runs/a", "runs/größe 1"])
def test_any_other_run_folder_may_be_chosen(value: str) -> None:
    assert list(name_problems({"paths": {"run_dir": value}, "output": value})) == []


@pytest.mark.parametrize("value", ["", " ", "a\nb", "-x", "${x}", "x" * 256])
def test_the_folder_of_a_callback_follows_the_rule_of_paths(value: str) -> None:
    callbacks = {"ema": {"folder": value}, "ledger": {"folder": "elsewhere/a"}, "progress": None}
    (problem,) = name_problems({"callbacks": callbacks})

    assert problem.startswith("callbacks.ema.folder: ")


def test_what_is_no_name_is_left_to_the_other_checks() -> None:
    assert list(name_problems({"name": None, "run_id": object(), "tasks": None, "paths": 3})) == []
    assert list(name_problems({"callbacks": 3})) == list(name_problems({"callbacks": None})) == []
