"""Explanations of refused overrides."""

from pathlib import Path

import pytest

from biomamba.config.compose import preflight
from biomamba.runtime.errors import ConfigError


def explanations(conf: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        preflight("train", overrides, folder=conf)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_unknown_key_of_a_node_names_the_parameters(conf: Path) -> None:
    (line,) = explanations(conf, "model.max_token=3")

    assert line == (
        "model.max_token: unknown key 'max_token' (did you mean 'max_tokens'?); "
        "accepted: max_tokens, step_tokens"
    )


def test_unknown_top_level_key_names_keys_and_groups(conf: Path) -> None:
    (line,) = explanations(conf, "traner.devices=2")

    assert line.startswith("traner.devices: unknown key 'traner' (did you mean 'trainer'?)")
    assert "experiment" in line


def test_key_that_could_be_added_says_how(conf: Path) -> None:
    (line,) = explanations(conf, "optimizer.eps=0.1")

    assert line == (
        "optimizer.eps: the config does not set 'eps'; to add it write +optimizer.eps=0.1"
    )


def test_unknown_option_names_the_options(conf: Path) -> None:
    (line,) = explanations(conf, "model=tinny")

    assert line == (
        "model=tinny: unknown option of model 'tinny' (did you mean 'tiny'?); accepted: tiny"
    )


def test_unknown_experiment_names_all_experiments(conf: Path) -> None:
    (line,) = explanations(conf, "+experiment=cpt/goood")

    assert "unknown option of experiment 'cpt/goood' (did you mean 'cpt/good'?)" in line
    assert "accepted: cpt/good, cpt/nested_typo, typo" in line


def test_all_unknown_keys_of_an_experiment_are_named_with_the_file(conf: Path) -> None:
    lines = explanations(conf, "+experiment=typo")

    assert [line.split(" (")[0] for line in lines] == [
        "experiment/typo.yaml: unknown key 'traner'",
        "experiment/typo.yaml: unknown key 'sede'",
    ]


def test_misspelled_group_with_a_plus_is_no_new_key(conf: Path) -> None:
    (line,) = explanations(conf, "+expermient=cpt/good")

    assert line.startswith("expermient: unknown key 'expermient' (did you mean 'experiment'?)")


def test_group_outside_the_defaults_needs_a_plus(conf: Path) -> None:
    (line,) = explanations(conf, "debug=quick")

    assert "+debug=quick" in line


def test_mistyped_value_is_shown(conf: Path) -> None:
    (line,) = explanations(conf, "seed=abc")

    assert line == "seed=abc: Value 'abc' of type 'str' could not be converted to Integer"


def test_unreadable_override_is_shown(conf: Path) -> None:
    (line,) = explanations(conf, "name=[1")

    assert line.startswith("name=[1:")


def test_unknown_keys_of_a_mapping_are_named_by_their_own_path(conf: Path) -> None:
    assert explanations(conf, "model={max_tokens: 8, max_token: 3}") == [
        "model.max_token: unknown key 'max_token' (did you mean 'max_tokens'?); "
        "accepted: max_tokens, step_tokens"
    ]
    assert explanations(conf, "paths={data_dri: x}")[0].startswith(
        "paths.data_dri: unknown key 'data_dri' (did you mean 'data_dir'?)"
    )


@pytest.mark.parametrize("override", ["sources={bc5: [...]}", "sources.bc5=[...]"])
def test_a_mapping_from_free_names_says_how_to_add_one(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preflight("train", [override])
    line = str(caught.value).splitlines()[1].strip()

    assert line.startswith("sources.bc5: unknown key 'bc5'; accepted: biomedical")
    assert "'+sources.bc5=...'" in line
