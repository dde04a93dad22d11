"""Building nodes, and whose error comes out."""

from types import ModuleType
from typing import Any

import pytest
from omegaconf import OmegaConf

from biomamba.config.check import build
from biomamba.runtime.errors import ConfigError, DataError

CONFIG = {
    "model": {
        "_target_": "biomamba.stand_in.Heavy",
        "budget": {"_target_": "biomamba.stand_in.Budget", "max_tokens": 8},
    },
    "plain": {"_target_": "biomamba.stand_in.make", "names": ["a"], "shares": {"a": 1.0}},
    "budget": {"_target_": "biomamba.stand_in.Budget", "max_tokens": 8, "step_tokens": 3},
    "deep": {"files": {"_target_": "biomamba.stand_in.Files", "paths": ["x.txt"]}},
    "unknown": {"_target_": "biomamba.stand_in.Budget", "max_tokens": 8, "steps": 3},
}


def test_node_is_built_with_its_children(stand_in: ModuleType) -> None:
    model = build(OmegaConf.create(CONFIG).model)

    assert isinstance(model, stand_in.Heavy)
    assert model.budget == stand_in.Budget(8)


def test_none_stays_none() -> None:
    assert build(None) is None


def test_constructors_receive_plain_containers() -> None:
    made = build(OmegaConf.create(CONFIG).plain)

    assert type(made["names"]) is list
    assert type(made["shares"]) is dict


def test_run_time_object_is_passed_on_as_it_is() -> None:
    thing = object()

    assert build(OmegaConf.create(CONFIG).plain, thing=thing)["thing"] is thing


def test_value_error_becomes_a_config_error_with_the_key() -> None:
    with pytest.raises(ConfigError) as caught:
        build(OmegaConf.create(CONFIG).budget)

    assert str(caught.value) == "budget: max_tokens 8 is no multiple of step_tokens 3"


def test_project_error_keeps_its_class_and_gains_the_key() -> None:
    with pytest.raises(DataError) as caught:
        build(OmegaConf.create(CONFIG).deep.files)

    assert str(caught.value) == "deep.files: no such file: x.txt"


def test_defect_comes_out_unchanged() -> None:
    with pytest.raises(ZeroDivisionError, match="a defect"):
        build(OmegaConf.create(CONFIG).model, mode="defect")


def test_unknown_argument_is_a_defect_of_the_unchecked_config() -> None:
    with pytest.raises(TypeError, match="steps"):
        build(OmegaConf.create(CONFIG).unknown)


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.rmdir", "path": "x"},
        {"_target_": "biomamba.stand_in.Budget", "_args_": [8]},
        {"_target_": "biomamba.stand_in.Budget", "max_tokens": 8, "_partial_": True},
        {"b": [{"c": {"_target_": "biomamba.stand_in.sys.exit"}}]},
        {"_target_": "${oc.decode:os.rmdir}", "path": "x"},
        {"b": "${oc.create:{_target_: os.rmdir, path: x}}"},
    ],
)
def test_nothing_outside_the_list_is_called(node: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^a(\.b)?.*(_target_|_args_|_partial_)"):
        build(OmegaConf.create({"a": node}).a)
