"""An entry of a chain is checked key by key; a step says its whole command."""

from typing import Any

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.workflow.chain import OUTPUT_KEYS, Step, Template

ENTRY: dict[str, Any] = {"program": "train", "overrides": ["seed=1"], "minutes": 2}


@pytest.mark.parametrize("program", sorted(OUTPUT_KEYS))
def test_a_command_ends_with_the_folder_of_the_step(program: str) -> None:
    step = Step(
        name="a",
        template="a",
        program=program,
        overrides=("x=1",),
        after=(),
        minutes=1,
        output="runs/a",
    )

    assert step.command == (f"biomamba.{program}", "x=1", f"{OUTPUT_KEYS[program]}=runs/a")


def test_further_overrides_stand_behind_the_others() -> None:
    assert Template.parse(ENTRY | {"more": ["seed=2"]}).texts == ["seed=1", "seed=2"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"aftr": ["x"]}, "did you mean 'after'"),
        ({"minutes": "long"}, "minutes must be .*, found 'long'"),
        ({"minutes": 0}, "above 0"),
        ({"program": "trian"}, "did you mean 'train'"),
        ({"overrides": "seed=1"}, "overrides must be"),
        ({"overrides": ["paths.run_dir=x"]}, "output: <folder>"),
        ({"more": ["+paths.run_dir=x"]}, "output: <folder>"),
        ({"each": {"seed": []}}, "each.seed is empty"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Template.parse(ENTRY | change)


def test_all_missing_keys_are_named() -> None:
    with pytest.raises(ConfigError, match="program, overrides must be given"):
        Template.parse({})
