"""How single documents differ between models."""

import numpy as np
import pytest

from biomamba.evaluation.comparison import Trained, document_changes
from biomamba.evaluation.stored_run import Scored
from biomamba.metrics.measure import Measure, ratio_of_sums


def trained(name: str, nll: list[float], items: str = "ab") -> Trained:
    columns = np.stack([np.array(nll), np.ones(2), np.ones(2)], axis=1)
    measure = Measure("bits_per_byte", columns, lambda sums: sums[:, 0] / sums[:, 2])
    other = Measure("accuracy", columns[:, :2], ratio_of_sums)
    names = list(items)
    scored = {
        "web": Scored(
            subject="web", protocol={}, tokenizer=None, items=names, units=names, measures=[measure]
        ),
        "quiz": Scored(
            subject="quiz", protocol={}, tokenizer=None, items=names, units=names, measures=[other]
        ),
    }
    return Trained(name, scored)


def test_changes_are_means_over_seeds_in_one_order() -> None:
    models = {
        "base": [trained("x", [1.0, 2.0])],
        "new": [trained("y", [4.0, 3.0], items="ba"), trained("z", [5.0, 8.0])],
    }
    found = document_changes(models, "base")

    assert list(found) == ["web"]  # a task has no bits per byte
    assert list(found["web"]) == ["new"]
    assert found["web"]["new"] == pytest.approx([(3 + 5) / 2 - 1, (4 + 8) / 2 - 2])
