"""What all tasks check."""

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.tasks.task import ChooseOption, Task, WriteText, check_access, check_training_split


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_and_validation_may_be_learned_from(split: str) -> None:
    check_training_split(split)


@pytest.mark.parametrize("split", ["test", "held_out", "Train", ""])
def test_no_other_split_may(split: str) -> None:
    with pytest.raises(ConfigError, match=f"split is {split!r}; allowed: train, val"):
        check_training_split(split)


def test_access_is_open_or_restricted() -> None:
    check_access("open")
    check_access("restricted")
    with pytest.raises(ConfigError, match="access is 'secret'; allowed: open, restricted"):
        check_access("secret")


def test_a_task_must_say_everything() -> None:
    missing = Task.__abstractmethods__

    assert missing == {"answer", "items", "held_out", "measures", "files"}


def test_answers_have_the_usual_defaults() -> None:
    assert ChooseOption().normalise == "bytes"
    assert WriteText(8) == WriteText(8, stop=(), num_candidates=1)
