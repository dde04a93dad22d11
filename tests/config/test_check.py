"""The check of a whole config."""

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
from omegaconf import OmegaConf

from biomamba.config.check import check_config, config_problems
from biomamba.runtime.errors import ConfigError

BUDGET = {"_target_": "biomamba.stand_in.Budget", "max_tokens": 8}
HEAVY = {"_target_": "biomamba.stand_in.Heavy", "budget": BUDGET}


def problems_of(tree: dict[str, Any]) -> list[str]:
    return config_problems(OmegaConf.create(tree))


def test_sound_config_passes_and_nothing_heavy_is_built(stand_in: ModuleType) -> None:
    check_config(OmegaConf.create({"a": HEAVY, "b": [BUDGET], "c": {"d": 1}}))

    assert stand_in.Heavy.num_built == 0


def test_problems_of_all_nodes_come_together() -> None:
    cfg = OmegaConf.create(
        {
            "a": {"_target_": "os.system", "command": "x"},
            "b": {"c": [{**BUDGET, "steps": 1}]},
            "d": {**BUDGET, "_partial_": True},
            "e": "???",
            "f": "${nope}",
        }
    )

    with pytest.raises(ConfigError, match="5 problems in the configuration") as caught:
        check_config(cfg)

    keys = sorted(line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:])
    assert keys == ["a", "b.c.0", "d", "e", "f"]


def test_rule_of_a_value_object_is_reported_with_its_key() -> None:
    found = problems_of({"data": {"budget": {**BUDGET, "step_tokens": 3}}})

    assert found == ["data.budget: max_tokens 8 is no multiple of step_tokens 3"]


def test_value_object_inside_a_heavy_node_is_tried() -> None:
    found = problems_of({"a": {**HEAVY, "budget": {**BUDGET, "step_tokens": 3}}})

    assert found == ["a.budget: max_tokens 8 is no multiple of step_tokens 3"]


def test_data_error_of_a_value_object_is_collected() -> None:
    found = problems_of({"a": {"_target_": "biomamba.stand_in.Files", "paths": ["x.txt"]}})

    assert found == ["a: no such file: x.txt"]


def test_value_object_is_not_tried_with_unknown_values() -> None:
    found = problems_of({"a": {**BUDGET, "max_tokens": "???"}})

    assert [problem.split(":")[0] for problem in found] == ["a.max_tokens"]


def test_misspelled_hydra_key_is_found() -> None:
    found = problems_of({"a": {"_traget_": "x"}})

    assert found[0].startswith("a: unknown key '_traget_' (did you mean '_target_'?)")


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_recursive_", "_convert_"])
def test_what_changes_the_call_of_a_target_is_no_key(key: str) -> None:
    found = problems_of({"a": {**BUDGET, key: True}})

    assert len(found) == 1
    assert found[0].startswith(f"a: unknown key '{key}'")


def test_scalar_in_place_of_a_node_is_found() -> None:
    found = problems_of({"a": {**HEAVY, "budget": "large"}})

    assert found == ["a: key 'budget' must be Budget, found str 'large'"]


def test_config_package_does_not_import_torch() -> None:
    code = "import sys, biomamba.config.cli; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
