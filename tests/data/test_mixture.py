"""The mixture: exact shares, random access, epochs."""

import pickle
from typing import Any

import numpy as np
import pytest

from biomamba.data.mixture import MixedRows, Mixture, SourceSize
from biomamba.runtime.errors import ConfigError, DataError

WEIGHTS = {"pubmed": 0.8, "c4": 0.1, "wikipedia": 0.1}
# Mean real tokens per row: 700, 500, 1,000; documents per row: 3, 2, 1.
SIZES = {
    "pubmed": SourceSize(1_000, 700_000, 3_000),
    "c4": SourceSize(400, 200_000, 800),
    "wikipedia": SourceSize(70, 70_000, 70),
}


def rows_of(mixture: Mixture, **options: Any) -> MixedRows:
    return MixedRows(mixture, options.get("sizes", SIZES), options.get("seed", 1))


def test_sequences_are_shared_exactly_in_every_block() -> None:
    rows = rows_of(Mixture(WEIGHTS, unit="sequences", block_size=10))
    source, _, _ = rows.locate_many(np.arange(5_000))
    blocks = source.reshape(-1, 10)
    for index, count in enumerate([8, 1, 1]):
        assert ((blocks == index).sum(axis=1) == count).all()


def test_any_prefix_holds_the_shares_to_about_a_row() -> None:
    rows = rows_of(Mixture(WEIGHTS, unit="sequences", block_size=1_000))
    source, _, _ = rows.locate_many(np.arange(3_000))
    length = np.arange(1, 3_001)
    for index, weight in enumerate(WEIGHTS.values()):
        drawn = np.cumsum(source == index)
        # Each source is at most one row off its place, which moves the others by their share.
        assert (np.abs(drawn - weight * length) <= 1 + len(WEIGHTS) * weight).all()


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


def test_locate_equals_a_sequential_pass() -> None:
    rows = rows_of(Mixture(WEIGHTS, block_size=101))
    source, row, epoch = rows.locate_many(np.arange(3_000))
    fresh = rows_of(Mixture(WEIGHTS, block_size=101))
    for sample in (2_999, 0, 1_500, 101, 100):
        assert fresh.locate(sample) == (source[sample], row[sample], epoch[sample])


def test_each_epoch_of_a_source_gives_every_row_once_in_another_order() -> None:
    rows = rows_of(Mixture(WEIGHTS, block_size=101))
    source, row, epoch = rows.locate_many(np.arange(101 * 40))
    wikipedia = row[source == 2]
    first, second = wikipedia[:70], wikipedia[70:140]
    assert epoch[source == 2][:140].tolist() == [0] * 70 + [1] * 70
    assert sorted(first) == sorted(second) == list(range(70))
    assert first.tolist() != second.tolist()


def test_blocks_are_ordered_differently() -> None:
    rows = rows_of(Mixture(WEIGHTS, unit="sequences", block_size=100))
    source, _, _ = rows.locate_many(np.arange(200))
    assert source[:100].tolist() != source[100:].tolist()


def test_the_seed_selects_the_order() -> None:
    mixture = Mixture(WEIGHTS, block_size=101)
    same, other = rows_of(mixture, seed=1), rows_of(mixture, seed=2)
    samples = np.arange(500)
    assert np.array_equal(rows_of(mixture).locate_many(samples), same.locate_many(samples))
    assert not np.array_equal(same.locate_many(samples), other.locate_many(samples))


def test_far_samples_need_no_walk_through_the_stream() -> None:
    source, row, epoch = rows_of(Mixture(WEIGHTS, block_size=101)).locate(10**12)
    assert 0 <= row < list(SIZES.values())[source].num_rows
    assert epoch > 10**8


def test_a_pickled_stream_is_the_same_stream() -> None:
    rows = rows_of(Mixture(WEIGHTS, block_size=101))
    copy = pickle.loads(pickle.dumps(rows))
    assert np.array_equal(copy.locate_many(np.arange(300)), rows.locate_many(np.arange(300)))


def test_a_source_of_weight_zero_is_never_drawn() -> None:
    weights = {"pubmed": 0.0, "c4": 0.5, "wikipedia": 0.5}
    sizes = SIZES | {"pubmed": SourceSize(0, 0, 0)}
    rows = rows_of(Mixture(weights, unit="sequences"), sizes=sizes)
    assert set(rows.locate_many(np.arange(1_000))[0].tolist()) == {1, 2}


def test_a_weighted_source_without_rows_is_refused() -> None:
    sizes = SIZES | {"c4": SourceSize(0, 0, 0)}
    with pytest.raises(DataError, match=r"\['c4'\] have no training rows"):
        Mixture(WEIGHTS).counts(sizes)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"weights": {"a": 0.5, "b": 0.4}}, "sum to 0.9, not to 1"),
        ({"weights": {"a": 1.5, "b": -0.5}}, "must not be negative, got {'b': -0.5}"),
        ({"weights": {"a": float("nan")}}, "must not be negative"),
        ({"weights": {}}, "sum to 0"),
        ({"weights": {"a": 1.0}, "unit": "words"}, "tokens, sequences, documents"),
        ({"weights": {"a": 1.0}, "block_size": 0}, "block_size is 0"),
    ],
)
def test_impossible_mixtures_are_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Mixture(**fields)


def test_a_rounding_error_in_the_sum_is_allowed() -> None:
    Mixture({"a": 0.1 + 0.2, "b": 0.7})


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed is -1"):
        rows_of(Mixture(WEIGHTS, block_size=101), seed=-1)
