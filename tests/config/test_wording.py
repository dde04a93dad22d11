"""How problems are worded."""

from biomamba.config.wording import first_line, report, unknown_name


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
