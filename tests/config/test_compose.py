"""Composition with every mistake reported at once."""

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from biomamba.config.compose import compose_config, preflight
from biomamba.runtime.errors import ConfigError


def problem_keys(conf: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        preflight("train", overrides, folder=conf)
    return [line.strip().split(":")[0] for line in str(caught.value).splitlines()[1:]]


def test_sound_command_line_passes(conf: Path) -> None:
    preflight("train", ["+experiment=cpt/good", "seed=3", "optimizer.weight_decay=0.1"], conf)


def test_composed_config_has_no_hydra_node(conf: Path) -> None:
    cfg = compose_config("train", ["seed=7"], conf)

    assert cfg.seed == 7
    assert "hydra" not in cfg


def test_all_misspelled_keys_are_reported_at_once(conf: Path) -> None:
    keys = problem_keys(conf, "sed=1", "model.max_token=3", "max_tokens=8", "optimizer.lrr=1")

    assert keys == ["sed", "model.max_token", "optimizer.lrr"]


def test_rest_of_the_config_is_checked_besides(conf: Path) -> None:
    keys = problem_keys(conf, "sed=1", "+experiment=cpt/nested_typo", "model.step_tokens=3")

    assert keys == ["sed", "model", "optimizer"]


def test_key_that_an_absent_experiment_may_bring_is_not_reported(conf: Path) -> None:
    keys = problem_keys(conf, "+experiment=cpt/none", "optimizer.weight_decay=1", "sed=1")

    assert keys == ["+experiment=cpt/none", "sed"]


def test_override_may_stand_before_the_one_that_it_needs(conf: Path) -> None:
    keys = problem_keys(conf, "optimizer.weight_decay=1", "sed=1", "+optimizer.weight_decay=2")

    assert keys == ["sed"]


def test_hydra_values_resolve_as_in_a_job(conf: Path) -> None:
    before = HydraConfig.instance().cfg

    preflight("train", ["name=${hydra:job.name}", "+data.x=${hydra:runtime.output_dir}"], conf)

    assert HydraConfig.instance().cfg is before
    assert not GlobalHydra.instance().is_initialized()


def test_further_config_folder_is_searched(conf: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra" / "experiment"
    extra.mkdir(parents=True)
    (extra / "mine.yaml").write_text("# @package _global_\nseed: 5\n", encoding="utf-8")

    preflight("train", ["+experiment=mine"], conf, extra_dir=extra.parent)
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        preflight("train", ["+experiment=minne"], conf, extra_dir=extra.parent)


def test_broken_primary_config_is_named(conf: Path) -> None:
    (conf / "train.yaml").write_text("defaults: [{model: none}]\n", encoding="utf-8")

    with pytest.raises(ConfigError, match="primary config 'train' does not compose"):
        preflight("train", [], conf)
