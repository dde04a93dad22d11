"""Targets and their arguments."""

from types import ModuleType

import pytest
import torch

from biomamba.config.targets import TargetError, call_problems, load_target, parameter_names


def test_class_of_an_allowed_package_is_loaded() -> None:
    assert load_target("torch.optim.AdamW") is torch.optim.AdamW


@pytest.mark.parametrize(
    "name", ["os.system", "torch.load", "biomamba.stand_in.sys.exit", "biomambax.Thing", None, 3]
)
def test_other_targets_are_refused(name: object) -> None:
    with pytest.raises(TargetError, match="_target_ must name a class or function of biomamba"):
        load_target(name)


def test_misspelled_target_is_named() -> None:
    with pytest.raises(TargetError, match=r"cannot import torch\.optim\.AdamWW"):
        load_target("torch.optim.AdamWW")


def test_unknown_missing_and_mistyped_arguments_are_all_found(stand_in: ModuleType) -> None:
    node = {"_target_": "biomamba.stand_in.Budget", "step_tokens": 1.5, "max_token": 3}

    problems = list(call_problems(stand_in.Budget, node))

    assert problems == [
        "unknown key 'max_token' (did you mean 'max_tokens'?); accepted: max_tokens, step_tokens "
        "(parameters of biomamba.stand_in.Budget)",
        "key 'max_tokens' is missing; biomamba.stand_in.Budget needs it",
        "key 'step_tokens' must be int, found float 1.5",
    ]


def test_partial_may_lack_arguments_but_not_invent_them() -> None:
    node = {"_target_": "torch.optim.AdamW", "_partial_": True, "lrr": 1.0}

    problems = list(call_problems(torch.optim.AdamW, node))

    assert len(problems) == 1
    assert problems[0].startswith("unknown key 'lrr' (did you mean 'lr'?)")


def test_target_with_open_keywords_takes_any_key(stand_in: ModuleType) -> None:
    assert list(call_problems(stand_in.make, {"_target_": "biomamba.stand_in.make", "x": 1})) == []


def test_parameter_names_of_a_node() -> None:
    assert parameter_names({"_target_": "biomamba.stand_in.Budget"}) == [
        "max_tokens",
        "step_tokens",
    ]
    assert parameter_names({"_target_": "os.system"}) == []
    assert parameter_names({}) == []
