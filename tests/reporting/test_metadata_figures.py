"""Figures of groups: exact sums over their documents, paired and corrected."""

import math

import numpy as np
import pytest

from biomamba.evaluation.comparison import Trained
from biomamba.evaluation.document_scores import ScoreOrigin, StoredScores
from biomamba.evaluation.perplexity import DocumentScores
from biomamba.evaluation.stored_run import scored_documents
from biomamba.metrics.measure import TOO_FEW, Bootstrap
from biomamba.metrics.significance import holm
from biomamba.reporting.metadata import ScoredSource, group_figures, with_holm

BOOTSTRAP = Bootstrap(num_resamples=200, seed=1)
BYTES = np.array([100, 200, 300, 400])
TOKENS = BYTES // 5


def trained(bits: list[float], tokenizer: str = "t", order: list[int] | None = None) -> Trained:
    """One checkpoint with these bits per byte of four documents."""
    nll = np.array(bits) * np.log(2) * BYTES
    chosen = np.array(order or range(4))
    origin = ScoreOrigin(
        source="s", model="m", split="test", tokenizer=tokenizer, protocol={}, provenance={}
    )
    keys = np.arange(1, 5, dtype=np.uint64)[chosen]
    scores = DocumentScores(nll[chosen], TOKENS[chosen], BYTES[chosen])
    return Trained("c", {"s": scored_documents(StoredScores(origin, keys, scores))})


BASE, ADAPTED = [2.0, 2.0, 3.0, 3.0], [1.0, 1.5, 3.0, 3.5]
GROUPS = {"a": [0, 1], "b": [2, 3]}


def test_a_group_is_the_sum_over_its_documents() -> None:
    scored = ScoredSource.of({"base": [trained(BASE)], "new": [trained(ADAPTED)]}, "s")
    found = {(f.group, f.model): f for f in group_figures(scored, GROUPS, "base", BOOTSTRAP)}

    # (1.0 * 100 + 1.5 * 200) / 300 and (3.0 * 300 + 3.5 * 400) / 700; five bytes to a token
    assert found["a", "new"].bits.value == pytest.approx(400 / 300)
    assert found["b", "new"].bits.value == pytest.approx(2300 / 700)
    perplexity = found["a", "new"].perplexity
    assert perplexity is not None
    assert perplexity.value == pytest.approx(2 ** (5 * 400 / 300))
    change = found["b", "new"].change
    assert change is not None
    assert change.value == pytest.approx(2300 / 700 - 3.0)
    assert (change.method, math.isnan(change.low)) == (TOO_FEW, True)  # two documents
    assert found["b", "base"].change is None
    assert {f.num_documents for f in found.values()} == {2}


def test_documents_are_matched_by_key_whatever_their_order() -> None:
    models = {"base": [trained(BASE)], "new": [trained(ADAPTED, order=[3, 1, 0, 2])]}
    scored = ScoredSource.of(models, "s")
    columns = scored.measures["new"]["bits_per_byte"].columns
    assert (columns[:, 2] == BYTES).all()
    assert columns[:, 0] == pytest.approx(np.array(ADAPTED) * np.log(2) * BYTES)


def test_of_several_seeds_the_mean_is_taken() -> None:
    scored = ScoredSource.of({"new": [trained(BASE), trained(ADAPTED)]}, "s")
    (figure,) = group_figures(scored, {"a": [0, 1]}, "new", BOOTSTRAP)
    assert figure.bits.value == pytest.approx((2.0 + 400 / 300) / 2)


def test_models_of_other_tokens_have_no_perplexity() -> None:
    models = {"base": [trained(BASE)], "new": [trained(ADAPTED, tokenizer="other")]}
    figures = group_figures(ScoredSource.of(models, "s"), GROUPS, "base", BOOTSTRAP)
    assert [figure.perplexity for figure in figures] == [None] * 4


def test_p_values_are_corrected_over_the_whole_table() -> None:
    models = {"base": [trained(BASE)], "new": [trained(ADAPTED)], "same": [trained(BASE)]}
    figures = list(group_figures(ScoredSource.of(models, "s"), GROUPS, "base", BOOTSTRAP))
    corrected = with_holm(figures)
    p_values = [f.change.p_value for f in figures if f.change is not None]
    assert len(p_values) == 4
    assert [f.p_holm for f in corrected if f.change is not None] == holm(p_values)
    assert [f.p_holm for f in corrected if f.model == "base"] == [None, None]
