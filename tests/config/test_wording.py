"""How problems are worded."""

from functools import partial

import pytest

from biomamba.config.messages import check_all, first_line, report, unknown_name
from biomamba.runtime.errors import BioMambaError, ConfigError, DataError


def test_unknown_name_gives_the_closest_and_all() -> None:
    text = unknown_name("key", "lrr", ["weight_decay", "lr", "betas"])

    assert text == "unknown key 'lrr' (did you mean 'lr'?); accepted: betas, lr, weight_decay"


def test_unknown_name_without_a_close_one_only_lists() -> None:
    assert unknown_name("key", "zzz", ["lr"]) == "unknown key 'zzz'; accepted: lr"


def test_nothing_accepted_is_said() -> None:
    assert unknown_name("key", "zzz", []) == "unknown key 'zzz'; accepted: none"


def test_report_counts_its_lines() -> None:
    assert report("x", ["a", "b"]) == "2 problems in x:\n  a\n  b"
    assert report("x", ["a"]) == "1 problem in x:\n  a"


def test_first_line_of_an_empty_error_is_its_type() -> None:
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("one\ntwo")) == "one"


def failing(error: Exception) -> None:
    raise error


def test_all_checks_are_made_and_told_together() -> None:
    done: list[int] = []
    one, two = DataError("a: wrong"), ConfigError("b: wrong")
    check_all("x", [partial(done.append, 1)])
    with pytest.raises(DataError, match="a: wrong"):
        check_all("x", [partial(failing, one), partial(done.append, 2)])
    with pytest.raises(ConfigError) as caught:
        check_all("x", [partial(failing, one), partial(done.append, 3), partial(failing, two)])

    assert str(caught.value) == "2 problems in x:\n  a: wrong\n  b: wrong"
    assert done == [1, 2, 3]
    with pytest.raises(KeyError):  # a defect is none of the user's problems
        check_all("x", [partial(failing, KeyError()), partial(failing, BioMambaError())])
