"""Several tests in one table."""

import itertools
import math

import numpy as np
import pytest

from biomamba.metrics.significance import holm


def test_the_smallest_is_multiplied_by_all_and_the_largest_by_one() -> None:
    # 0.01 * 4, 0.02 * 3, 0.03 * 2 (raised to the one before), 0.9 * 1.
    assert holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])


def test_one_test_stays_as_it_is_and_none_is_no_error() -> None:
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_findings_are_those_of_the_stepwise_procedure() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p_values = rng.random(6) ** 3
        refused = set()
        for step, index in enumerate(np.argsort(p_values)):
            if p_values[index] > 0.05 / (6 - step):
                break
            refused.add(int(index))
        adjusted = np.array(holm(list(p_values)))
        assert set(np.nonzero(adjusted <= 0.05)[0].tolist()) == refused


def test_order_does_not_matter_and_nothing_shrinks_or_passes_one() -> None:
    p_values = [0.4, 0.004, 0.04, 0.7]
    known = dict(zip(p_values, holm(p_values), strict=True))
    for order in itertools.permutations(p_values):
        assert holm(order) == [known[p] for p in order]
    assert all(p <= known[p] <= 1 for p in p_values)


def test_tests_that_could_not_be_made_do_not_count() -> None:
    found = holm([0.02, math.nan, 0.03])
    assert math.isnan(found[1])
    assert [found[0], found[2]] == pytest.approx([0.04, 0.04])


def test_a_family_of_true_hypotheses_is_seldom_refused_anywhere() -> None:
    rng = np.random.default_rng(1)
    false_findings = sum(min(holm(list(row))) <= 0.1 for row in rng.random((500, 8)))
    # At most 10 % of 500, deviation 6.7; without correction 1 - 0.9**8 = 57 %.
    assert false_findings <= 70
