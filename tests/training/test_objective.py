"""Limits of a step are checked before anything is computed."""

from typing import Any

import pytest

from biomamba.training.module import Objective


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_grad_norm": 0.0}, "above 0, found 0.0"),
        ({"max_skipped_steps": 0}, "least 1, found 0"),
        ({"gradient_sums": "float16"}, "float32 or float64, got 'float16'"),
        ({"segment_tokens": 0}, "segment_tokens"),
        ({"loss_kernel": "cce"}, "loss_kernel must be chunked or liger, got 'cce'"),
    ],
)
def test_impossible_objectives_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(**settings)
