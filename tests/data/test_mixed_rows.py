"""The stream of rows: exact shares, random access, epochs, stages."""

import hashlib
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest

from biomamba.data.mixture import MixedRows, Mixture, SourceSize, Stage
from biomamba.runtime.errors import ConfigError

WEIGHTS = {"pubmed": 0.8, "c4": 0.1, "wikipedia": 0.1}
# Mean real tokens per row: 700, 500, 1,000; documents per row: 3, 2, 1.
SIZES = {
    "pubmed": SourceSize(1_000, 700_000, 3_000),
    "c4": SourceSize(400, 200_000, 800),
    "wikipedia": SourceSize(70, 70_000, 70),
}
GENERAL = {"pubmed": 0.0, "c4": 0.5, "wikipedia": 0.5}
LATE = {"pubmed": 0.95, "c4": 0.05, "wikipedia": 0.0}


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


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"seed must be .*, found -1"):
        rows_of(Mixture(WEIGHTS, block_size=101), seed=-1)


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({"block_size": 101}, "ed04afe95dc9a9ae"),
        ({"unit": "sequences", "block_size": 100}, "0575da2bed08ed9b"),
        ({}, "d0eebbc0e8183387"),
    ],
)
def test_the_stream_of_a_seed_never_changes(options: dict[str, Any], digest: str) -> None:
    # A checkpoint stores only a position: another order would repeat and skip rows on resume.
    located = np.stack(rows_of(Mixture(WEIGHTS, **options)).locate_many(np.arange(5_000)))
    assert hashlib.sha256(located.astype("<i8").tobytes()).hexdigest()[:16] == digest


def staged(firsts: list[int], unit: str = "sequences", block_size: int = 20) -> MixedRows:
    """Return a stream of three parts that start at these samples."""
    stages = [Stage(1, GENERAL), Stage(2, LATE)]
    return MixedRows(Mixture(WEIGHTS, unit, block_size, stages), SIZES, 1, firsts)


# Parts of whole blocks, of cut blocks, shorter than a block, and of a single row.
FIRSTS = [[0, 400, 800], [0, 413, 997], [0, 7, 12], [0, 1, 2]]


@pytest.mark.parametrize("firsts", FIRSTS)
def test_a_walk_draws_every_source_row_by_row_over_all_parts(firsts: list[int]) -> None:
    rows = staged(firsts)
    source, row, epoch = (values.tolist() for values in rows.locate_many(np.arange(6_000)))
    num_rows = [size.num_rows for size in SIZES.values()]
    drawn, seen = Counter[int](), set()
    for sample in range(6_000):
        assert list(rows.rows_drawn(sample).values()) == [drawn[index] for index in range(3)]
        index = source[sample]
        # The n-th draw of a source is of epoch n // rows, wherever the parts start.
        assert epoch[sample] == drawn[index] // num_rows[index]
        assert (index, row[sample], epoch[sample]) not in seen
        assert 0 <= row[sample] < num_rows[index]
        seen.add((index, row[sample], epoch[sample]))
        drawn[index] += 1
    assert max(epoch) >= 2


@pytest.mark.parametrize("seed", range(10))
def test_any_stages_of_any_sources_are_walked_without_gap_or_repeat(seed: int) -> None:
    generator = np.random.default_rng(seed)
    names = [f"source{index}" for index in range(generator.integers(1, 5))]
    sizes = {
        name: SourceSize(int(rows), int(rows) * int(mean), int(rows))
        for name, rows, mean in zip(
            names,
            generator.integers(1, 200, len(names)),
            generator.integers(50, 900, len(names)),
            strict=True,
        )
    }
    num_parts = int(generator.integers(1, 6))
    shares = generator.dirichlet(np.ones(len(names)), size=num_parts)
    shares[shares < 0.05] = 0.0
    shares /= shares.sum(axis=1, keepdims=True)
    weights = [dict(zip(names, part.tolist(), strict=True)) for part in shares]
    firsts = [0, *np.sort(generator.choice(1_500, num_parts - 1, replace=False) + 1).tolist()]
    stages = [Stage(index, later) for index, later in enumerate(weights[1:], start=1)]
    mixture = Mixture(weights[0], "tokens", 1_000, stages)
    rows = MixedRows(mixture, sizes, seed, firsts)
    source, row, epoch = rows.locate_many(np.arange(4_000))
    for index, name in enumerate(names):
        mine = source == index
        drawn = np.arange(mine.sum())
        assert epoch[mine].tolist() == (drawn // sizes[name].num_rows).tolist()
        for number in range(int(mine.sum()) // sizes[name].num_rows):
            in_epoch = row[mine][epoch[mine] == number]
            assert sorted(in_epoch.tolist()) == list(range(sizes[name].num_rows))
    for sample in [*firsts, *generator.integers(0, 4_000, 20).tolist()]:
        counted = np.bincount(source[:sample], minlength=len(names)).tolist()
        assert list(rows.rows_drawn(sample).values()) == counted
    for part, first, end in zip(mixture.parts, firsts, [*firsts[1:], 4_000], strict=True):
        in_part = np.bincount(source[first:end], minlength=len(names))
        share = np.array(list(part.counts(sizes).values())) / 1_000
        # Exact over whole blocks; in the rest each source is a row or so off.
        assert (np.abs(in_part - share * (end - first)) <= 1 + len(names) * share).all()


@pytest.mark.parametrize("firsts", FIRSTS)
def test_every_whole_block_of_a_part_has_its_exact_counts(firsts: list[int]) -> None:
    source, _, _ = staged(firsts).locate_many(np.arange(2_000))
    for first, end, weights in zip(
        firsts, [*firsts[1:], 2_000], (WEIGHTS, GENERAL, LATE), strict=True
    ):
        whole = (end - first) // 20 * 20
        blocks = source[first : first + whole].reshape(-1, 20)
        for index, weight in enumerate(weights.values()):
            assert ((blocks == index).sum(axis=1) == round(20 * weight)).all()
        # Of the block that the next part cuts off, each source is about a row off its share.
        rest = source[first + whole : end]
        for index, weight in enumerate(weights.values()):
            assert abs((rest == index).sum() - weight * len(rest)) <= 1 + 3 * weight


def test_the_first_part_is_the_stream_without_stages() -> None:
    samples = np.arange(413)
    constant = rows_of(Mixture(WEIGHTS, unit="sequences", block_size=20))
    assert np.array_equal(staged([0, 413, 997]).locate_many(samples), constant.locate_many(samples))


def test_equal_weights_in_another_part_are_laid_out_anew() -> None:
    mixture = Mixture(WEIGHTS, "sequences", 20, [Stage(1, WEIGHTS)])
    source, _, _ = MixedRows(mixture, SIZES, 1, [0, 200]).locate_many(np.arange(400))
    assert source[:200].tolist() != source[200:].tolist()


def test_random_access_over_parts_equals_a_walk() -> None:
    walked = np.stack(staged([0, 413, 997]).locate_many(np.arange(2_000)))
    fresh = staged([0, 413, 997])
    for sample in (1_999, 997, 996, 413, 412, 0):
        assert fresh.locate(sample) == tuple(walked[:, sample])
    copy = pickle.loads(pickle.dumps(fresh))
    assert np.array_equal(np.stack(copy.locate_many(np.arange(2_000))), walked)


def test_far_samples_of_the_last_part_need_no_walk() -> None:
    source, row, epoch = staged([0, 10**9, 10**11]).locate(10**12)
    assert 0 <= row < list(SIZES.values())[source].num_rows
    assert epoch > 10**6


def test_every_part_must_meet_its_shares() -> None:
    tight = {"pubmed": 0.998, "c4": 0.002, "wikipedia": 0.0}
    mixture = Mixture(WEIGHTS, "sequences", 20, [Stage(1, tight)])
    with pytest.raises(ConfigError, match=r"instead of .*0\.998.*block_size=251 works"):
        MixedRows(mixture, SIZES, 1, [0, 400])


def test_every_part_needs_a_start() -> None:
    with pytest.raises(ValueError, match="2 parts need as many starts"):
        MixedRows(Mixture(WEIGHTS, "sequences", 20, [Stage(1, GENERAL)]), SIZES, 1)
