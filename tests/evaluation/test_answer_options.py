"""Options that contradict each other are refused."""

from typing import Any

import pytest

from biomamba.evaluation.answer_options import AnswerOptions
from biomamba.runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "train"}, "split is 'train'; allowed: test, val"),
        ({"label_by": "guess"}, "label_by is 'guess'; allowed: likelihood, generation"),
        ({"decision": "best"}, "decision is 'best'; allowed: argmax, thresholds"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens must be at least 1"),
        ({"max_label_tokens": 0}, "max_label_tokens must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_random_draws": 0}, "num_random_draws must be at least 1"),
        ({"max_items": 0}, "max_items must be at least 1 or null"),
        ({"label_by": "generation", "decision": "thresholds"}, "work on likelihoods"),
        ({"label_by": "generation", "prior_correction": True}, "work on likelihoods"),
        ({"decision": "thresholds", "split": "val"}, "fits on the validation split"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnswerOptions(**options)


def test_thresholds_need_the_validation_split() -> None:
    assert AnswerOptions(decision="thresholds").fits_thresholds
    assert not AnswerOptions().fits_thresholds
