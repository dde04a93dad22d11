"""The mixture: shares, the rows that meet them, stages."""

from typing import Any

import pytest

from biomamba.data.mixture import Mixture, SourceSize, Stage, TokenBudget
from biomamba.runtime.errors import ConfigError, DataError

WEIGHTS = {"pubmed": 0.8, "c4": 0.1, "wikipedia": 0.1}
# Mean real tokens per row: 700, 500, 1,000; documents per row: 3, 2, 1.
SIZES = {
    "pubmed": SourceSize(1_000, 700_000, 3_000),
    "c4": SourceSize(400, 200_000, 800),
    "wikipedia": SourceSize(70, 70_000, 70),
}
GENERAL = {"pubmed": 0.0, "c4": 0.5, "wikipedia": 0.5}
BUDGET = TokenBudget(max_tokens=1_000, tokens_per_step=10, seq_len=10, micro_batch_size=1)


@pytest.mark.parametrize("unit", ["tokens", "documents"])
def test_shares_in_the_unit_are_within_half_a_percent(unit: str) -> None:
    mixture = Mixture(WEIGHTS, unit=unit, block_size=200)
    shares = mixture.shares(mixture.counts(SIZES), SIZES)
    for name, weight in WEIGHTS.items():
        assert abs(shares[name] - weight) <= 0.005


def test_token_counts_are_the_closed_form() -> None:
    # Rows in proportion to weight / mean tokens: 8/7 : 2/10 : 1/10, of 101 rows.
    expected = {"pubmed": 80, "c4": 14, "wikipedia": 7}
    assert Mixture(WEIGHTS, block_size=101).counts(SIZES) == expected


def test_a_block_too_small_for_the_shares_is_refused_with_one_that_works() -> None:
    with pytest.raises(ConfigError, match=r"block_size=10 rows.*block_size=\d+ works") as caught:
        Mixture(WEIGHTS, block_size=10).counts(SIZES)
    works = int(str(caught.value).rsplit("block_size=", 1)[1].split()[0])
    Mixture(WEIGHTS, block_size=works).counts(SIZES)


def test_a_small_weight_without_a_row_is_refused() -> None:
    weights = {"pubmed": 0.998, "c4": 0.002, "wikipedia": 0.0}
    with pytest.raises(ConfigError, match="works"):
        Mixture(weights, unit="sequences", block_size=100).counts(SIZES)


def test_a_weighted_source_without_rows_is_refused() -> None:
    sizes = SIZES | {"c4": SourceSize(0, 0, 0)}
    with pytest.raises(DataError, match=r"\['c4'\] have no training rows"):
        Mixture(WEIGHTS).counts(sizes)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"weights": {"a": 0.5, "b": 0.4}}, "sum to 0.9, not to 1"),
        ({"weights": {"a": 1.5, "b": -0.5}}, "weights.b must be .* at least 0, found -0.5"),
        ({"weights": {"a": float("nan")}}, "weights.a must be .* at least 0, found nan"),
        ({"weights": {}}, "sum to 0"),
        ({"weights": {"a": 1.0}, "unit": "words"}, "tokens, sequences, documents"),
        ({"weights": {"a": 1.0}, "block_size": 0}, "block_size must be .* at least 1, found 0"),
    ],
)
def test_impossible_mixtures_are_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Mixture(**fields)


def test_a_rounding_error_in_the_sum_is_allowed() -> None:
    Mixture({"a": 0.1 + 0.2, "b": 0.7})


def test_a_mixture_without_stages_is_one_part_and_its_weights_are_the_mean() -> None:
    mixture = Mixture(WEIGHTS)
    assert mixture.parts == [mixture]
    assert mixture.start_steps(BUDGET) == [0]
    assert mixture.mean_weights(BUDGET) == WEIGHTS
    assert mixture.description() == {"weights": WEIGHTS, "unit": "tokens", "block_size": 1_000}


def test_stages_replace_the_weights_and_keep_the_rest() -> None:
    mixture = Mixture(WEIGHTS, "sequences", 20, [Stage(250, GENERAL)])
    assert mixture.parts == [Mixture(WEIGHTS, "sequences", 20), Mixture(GENERAL, "sequences", 20)]
    assert mixture.start_steps(BUDGET) == [0, 25]
    assert mixture.description()["stages"] == [{"start_tokens": 250, "weights": GENERAL}]


def test_the_mean_weights_are_those_of_the_stages_by_their_length() -> None:
    # A quarter of the run at 0.8, 0.1, 0.1 and three quarters at 0, 0.5, 0.5.
    mean = Mixture(WEIGHTS, stages=[Stage(250, GENERAL)]).mean_weights(BUDGET)
    assert mean == pytest.approx({"pubmed": 0.2, "c4": 0.4, "wikipedia": 0.4})


def test_a_source_with_a_share_in_any_stage_is_trained_on() -> None:
    only_later = Mixture(
        {"a": 1.0, "b": 0.0, "c": 0.0}, stages=[Stage(10, {"b": 1.0, "a": 0, "c": 0})]
    )
    assert [only_later.trains_on(name) for name in "abc"] == [True, True, False]


@pytest.mark.parametrize(
    ("start_tokens", "nearest"), [(255, "260"), (4, "10"), (1_000, "990"), (5_000, "990")]
)
def test_a_stage_begins_with_a_step_of_the_run(start_tokens: int, nearest: str) -> None:
    mixture = Mixture(WEIGHTS, stages=[Stage(start_tokens, GENERAL)])
    with pytest.raises(ConfigError, match=f"start_tokens={start_tokens:,}.*works: {nearest}$"):
        mixture.start_steps(BUDGET)


def test_a_run_of_one_step_has_no_room_for_a_stage() -> None:
    with pytest.raises(ConfigError, match="none, the run has one step"):
        Mixture(WEIGHTS, stages=[Stage(5, GENERAL)]).start_steps(TokenBudget(10, 10, 10, 1))


@pytest.mark.parametrize(
    ("stages", "match"),
    [
        (lambda: [Stage(20, GENERAL), Stage(10, WEIGHTS)], r"must increase, got \[20, 10\]"),
        (lambda: [Stage(20, GENERAL), Stage(20, WEIGHTS)], r"must increase, got \[20, 20\]"),
        (lambda: [Stage(20, {"pubmed": 1.0})], r"sources \['pubmed'\], the mixture \['c4'"),
        (lambda: [Stage(20, GENERAL | {"c4": 0.6})], "sum to 1.1, not to 1"),
        (lambda: [Stage(20, GENERAL | {"c4": -0.5})], "weights.c4 must be .* found -0.5"),
        (lambda: [Stage(0, GENERAL)], "start_tokens must be .* at least 1, found 0"),
    ],
)
def test_impossible_stages_are_refused(stages: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Mixture(WEIGHTS, stages=stages())
