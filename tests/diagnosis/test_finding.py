from collections.abc import Iterator

import pytest

from biomamba.diagnosis.machine import Finding, State, ok, problem, run_checks, warning, worst


def test_a_remedy_belongs_to_what_is_not_ok_and_only_to_it() -> None:
    with pytest.raises(ValueError, match="a remedy belongs"):
        Finding("x", State.OK, "fine", "do something")
    with pytest.raises(ValueError, match="a remedy belongs"):
        Finding("x", State.PROBLEM, "broken")


def test_a_check_that_fails_is_a_problem_and_the_others_go_on() -> None:
    def breaks() -> Iterator[Finding]:
        yield ok("first", "seen")
        raise RuntimeError("no such device\nand more")

    found = run_checks([("a", breaks), ("b", lambda: [ok("b", "fine")])])

    assert [(finding.topic, finding.state) for finding in found] == [
        ("a", State.PROBLEM),
        ("b", State.OK),
    ]
    assert found[0].text == "could not be checked (RuntimeError: no such device)"


def test_the_worst_counts() -> None:
    fine, odd, bad = ok("x", "a"), warning("x", "b", "c"), problem("x", "d", "e")

    assert worst([]) == worst([fine]) == State.OK
    assert worst([fine, odd]) == State.WARNING
    assert worst([bad, odd, fine]) == State.PROBLEM
