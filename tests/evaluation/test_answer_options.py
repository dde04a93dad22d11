"""Options that contradict each other are refused."""

from typing import Any

import pytest

from biomamba.evaluation.answers import AnswerOptions
from biomamba.evaluation.label_head import HeadOptions
from biomamba.runtime.errors import ConfigError

HEAD: dict[str, Any] = {"label_by": "head", "head": HeadOptions()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "train"}, "split is 'train'; allowed: test, val"),
        ({"label_by": "guess"}, "label_by is 'guess'; allowed: likelihood, generation, head"),
        ({"decision": "best"}, "decision is 'best'; allowed: argmax, thresholds"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens must be .* at least 1, found 0"),
        ({"max_label_tokens": 0}, "max_label_tokens must be .* at least 1, found 0"),
        ({"batch_size": 0}, "batch_size must be .* at least 1, found 0"),
        ({"num_random_draws": 0}, "num_random_draws must be .* at least 1, found 0"),
        ({"max_items": 0}, "max_items must be .* at least 1, or null, found 0"),
        ({"label_by": "generation", "decision": "thresholds"}, "work on likelihoods"),
        ({"label_by": "generation", "prior_correction": True}, "work on likelihoods"),
        ({"label_by": "head"}, "label_by=head needs the node head"),
        ({"head": HeadOptions()}, "the other ways have none"),
        (HEAD | {"prior_correction": True}, "a head gives none"),
        (HEAD | {"split": "val"}, "chooses its l2 on the validation split"),
        ({"decision": "thresholds", "split": "val"}, "fits on the validation split"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnswerOptions(**options)


def test_thresholds_need_the_validation_split() -> None:
    assert AnswerOptions(decision="thresholds").fits_thresholds
    assert not AnswerOptions().fits_thresholds


def test_a_head_goes_with_thresholds() -> None:
    assert AnswerOptions(**HEAD, decision="thresholds").fits_thresholds
