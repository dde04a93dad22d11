"""Decisions over a set against a brute-force oracle of Python sets and all pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from biomamba.data.cleaning.benchmark_filter import HIT_DTYPE
from biomamba.data.cleaning.decisions import Decision, ShardTable, Verdict, decide
from biomamba.data.cleaning.near_duplicates import NearDuplicates
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import SPLITS, SplitRule

RULE = SplitRule(val_permille=200, test_permille=300)
NUM_BANDS = 3


@dataclass(frozen=True)
class Row:
    """One document as the oracle sees it."""

    corpus: str
    domain: str
    key: int
    group: int
    text: int
    bands: tuple[int, ...]
    is_hit: bool = False


def row(
    key: int, *, corpus: str = "a", group: int | None = None, text: int = 0, **more: object
) -> Row:
    """Return a document that equals no other but in what is given."""
    bands = tuple(1_000_000 + key * NUM_BANDS + i for i in range(NUM_BANDS))
    base = Row(corpus, f"domain of {corpus}", key, key, text or 10_000 + key, bands)
    return replace(base, group=key if group is None else group, **more)  # type: ignore[arg-type]


def random_rows(seed: int, num_rows: int = 120) -> list[Row]:
    """Return documents of three corpora with many collisions of every kind and unequal texts."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        corpus = "abc"[generator.integers(3)]
        key = int(generator.integers(1, 200)) * 7919
        group = key if generator.random() < 0.7 else int(generator.integers(1, 40)) * 104_729
        text = int(generator.integers(1, 150))
        # Equal texts have equal bands, as in nature.
        own = np.random.default_rng(text)
        bands = tuple(int(own.integers(400)) for _ in range(NUM_BANDS))
        domain = "x" if corpus == "a" else "y"
        rows.append(Row(corpus, domain, key, group, text, bands, bool(generator.random() < 0.03)))
    return rows


def distinct_ids(rows: Sequence[Row]) -> list[Row]:
    """Drop rows of an id that its corpus had before; among those order decides."""
    return list({(r.corpus, r.key): r for r in reversed(rows)}.values())[::-1]


def in_shards(rows: Sequence[Row], num_shards: int) -> list[list[Row]]:
    """Cut the rows of each corpus into shards, corpora in alphabetical order."""
    shards = []
    for corpus in "abc":
        own = [r for r in rows if r.corpus == corpus]
        shards += [list(own[part::num_shards]) for part in range(num_shards)]
    return shards


def table(rows: Sequence[Row], corpus: str, domain: str) -> ShardTable:
    hits = np.zeros(sum(r.is_hit for r in rows), HIT_DTYPE)
    hits["document"] = [place for place, r in enumerate(rows) if r.is_hit]
    bands = np.array([r.bands for r in rows], np.uint64).reshape(len(rows), NUM_BANDS)
    columns = {
        name: np.array([getattr(r, name) for r in rows], np.uint64)
        for name in ("key", "group", "text")
    }
    return ShardTable(corpus, domain, **columns, bands=bands, hits=hits)


def decided(shards: Sequence[Sequence[Row]], cleaning: Cleaning) -> list[Decision]:
    named = [(shard, shard[0].corpus, shard[0].domain) for shard in shards if shard]
    return decide([table(*shard) for shard in named], cleaning, RULE)


def outcome(shards: Sequence[Sequence[Row]], cleaning: Cleaning) -> dict[Row, tuple[str, str]]:
    """Return verdict and split by row; of equal rows the last one's."""
    full = [shard for shard in shards if shard]
    found = {}
    for shard, decision in zip(full, decided(full, cleaning), strict=True):
        for r, verdict, split in zip(shard, decision.verdict, decision.split, strict=True):
            is_kept = verdict == Verdict.KEPT
            found[r] = (Verdict(verdict).name, SPLITS[split] if is_kept else "")
    return found


def oracle(rows: Sequence[Row], cleaning: Cleaning) -> list[tuple[str, str]]:
    """Decide by the rules as they are told, all pairs at a time."""
    verdict = oracle_alone(rows, cleaning)
    kept = [place for place, name in enumerate(verdict) if name == "KEPT"]
    near = closure(kept, lambda a, b: is_near(rows[a], rows[b]))
    if cleaning.near_duplicates is not None and cleaning.near_duplicates.drop:
        copies = [p for p in kept if p != min(near[p], key=lambda other: rank(rows[other]))]
        for place in copies:
            verdict[place] = "NEAR_DUPLICATE"
        kept = [place for place in kept if place not in copies]
    bound = closure(kept, lambda a, b: rows[a].group == rows[b].group or b in near[a])
    split = {
        place: RULE.split_of(min(rows[other].group for other in bound[place])) for place in bound
    }
    return [(name, split.get(place, "")) for place, name in enumerate(verdict)]


def oracle_alone(rows: Sequence[Row], cleaning: Cleaning) -> list[str]:
    """Decide what needs no clusters."""
    verdict: list[str] = []
    seen: set[tuple[str, int]] = set()
    for r in rows:
        verdict.append("DUPLICATE_ID" if (r.domain, r.key) in seen else "KEPT")
        seen.add((r.domain, r.key))
    hits = [r for r in rows if r.is_hit]
    for place, r in enumerate(rows):
        if any(r.text == h.text or (r.domain, r.key) == (h.domain, h.key) for h in hits):
            verdict[place] = "BENCHMARK"
    first: dict[int, tuple[str, int]] = {}
    kept = [place for place, name in enumerate(verdict) if name == "KEPT"]
    for place in kept:
        text = rows[place].text
        first[text] = min(rank(rows[place]), first.get(text, rank(rows[place])))
    for place in kept if cleaning.exact_duplicates else []:
        if rank(rows[place]) != first[rows[place].text]:
            verdict[place] = "DUPLICATE_TEXT"
    return verdict


def rank(r: Row) -> tuple[str, int]:
    return r.corpus, r.key


def is_near(one: Row, other: Row) -> bool:
    bands = zip(one.bands, other.bands, strict=True)
    return one.text == other.text or any(a == b for a, b in bands)


def closure(places: list[int], is_linked: Callable[[int, int], bool]) -> dict[int, set[int]]:
    """Return for each place all that it is linked to, however many links away."""
    reached: dict[int, set[int]] = {}
    for start in places:
        if start in reached:
            continue
        found, new = {start}, [start]
        while new:
            here = new.pop()
            more = [p for p in places if p not in found and is_linked(here, p)]
            found |= set(more)
            new += more
        reached |= dict.fromkeys(found, found)
    return reached


POLICIES = [
    Cleaning(exact_duplicates=exact, near_duplicates=near)
    for exact in (True, False)
    for near in (NearDuplicates(), NearDuplicates(drop=True))
]


@pytest.mark.parametrize("cleaning", POLICIES, ids=["", "drop", "copies", "copies drop"])
@pytest.mark.parametrize("seed", range(12))
def test_decisions_are_those_of_the_oracle(seed: int, cleaning: Cleaning) -> None:
    rows = random_rows(seed)
    shards = in_shards(rows, 1)
    flat = [r for shard in shards for r in shard]
    decisions = decided(shards, cleaning)
    verdicts = np.concatenate([d.verdict for d in decisions])
    splits = np.concatenate([d.split for d in decisions])
    found = [
        (Verdict(verdict).name, SPLITS[split] if verdict == Verdict.KEPT else "")
        for verdict, split in zip(verdicts, splits, strict=True)
    ]

    assert found == oracle(flat, cleaning)
    assert len({name for name, _ in found}) >= (5 if cleaning is POLICIES[1] else 3)


@pytest.mark.parametrize("cleaning", POLICIES, ids=["", "drop", "copies", "copies drop"])
@pytest.mark.parametrize("seed", range(5))
def test_order_and_number_of_files_change_no_verdict_and_no_split(
    seed: int, cleaning: Cleaning
) -> None:
    rows = distinct_ids(random_rows(seed))
    # Ids that two corpora of a domain share are decided by the order of the corpora.
    expected = outcome(in_shards(rows, 1), cleaning)
    for number in (1, 2, 7, 200):
        shuffled = [rows[i] for i in np.random.default_rng(number).permutation(len(rows))]
        assert outcome(in_shards(shuffled, number), cleaning) == expected


@pytest.mark.parametrize("cleaning", POLICIES, ids=["", "drop", "copies", "copies drop"])
def test_splits_share_no_key_no_text_no_group_and_no_band(cleaning: Cleaning) -> None:
    rows = random_rows(99, num_rows=400)
    found = outcome(in_shards(rows, 3), cleaning)
    for name in ("text", "group", "bands"):
        splits: dict[object, set[str]] = {}
        for r, (verdict, split) in found.items():
            values = enumerate(r.bands) if name == "bands" else [getattr(r, name)]
            for value in values if verdict == "KEPT" else []:
                splits.setdefault(value, set()).add(split)
        assert max(map(len, splits.values())) == 1
        assert len(set().union(*splits.values())) > 1


def test_a_document_alone_is_split_by_its_group_key() -> None:
    rows = [row(key, group=key + 1_000) for key in range(1, 300)]
    (decision,) = decided([rows], Cleaning())

    groups = np.array([r.group for r in rows], np.uint64)
    assert np.array_equal(decision.split, RULE.indices(groups))
    assert not decision.verdict.any()
    assert not decision.cluster.any()


def test_a_chain_of_near_duplicates_is_one_cluster_of_the_smallest_key() -> None:
    chain = [row(key, bands=(key, key + 1, 0)) for key in range(500, 600)]
    linked = [replace(r, bands=(r.key // 2, (r.key + 1) // 2 + 10_000, r.key)) for r in chain]
    (decision,) = decided([linked[::-1]], Cleaning(near_duplicates=NearDuplicates()))

    assert set(decision.cluster.tolist()) == {1}
    assert {SPLITS[split] for split in decision.split} == {RULE.split_of(500)}


def test_one_id_in_two_domains_is_two_documents() -> None:
    shards = [[row(1, corpus="a")], [row(1, corpus="b", text=5)]]

    assert [d.verdict.tolist() for d in decided(shards, Cleaning())] == [[0], [0]]


def test_of_one_id_in_a_corpus_the_first_row_stays() -> None:
    shards = [[row(1, text=7), row(1, text=8)], [row(1, text=9)]]
    verdicts = [d.verdict.tolist() for d in decided(shards, Cleaning())]

    assert verdicts == [[Verdict.KEPT, Verdict.DUPLICATE_ID], [Verdict.DUPLICATE_ID]]


def test_of_equal_texts_that_of_the_first_corpus_stays() -> None:
    shards = [[row(9, corpus="b", text=3)], [row(1, corpus="a", text=3)]]
    verdicts = [d.verdict.tolist() for d in decided(shards, Cleaning())]

    assert verdicts == [[Verdict.KEPT], [Verdict.DUPLICATE_TEXT]]


def test_copies_of_a_benchmark_document_go_with_it() -> None:
    hit = row(1, text=3, is_hit=True)
    shards = [[row(2, text=3), hit, row(3)], [row(1, text=4)]]
    verdicts = [d.verdict.tolist() for d in decided(shards, Cleaning())]

    assert verdicts == [[Verdict.BENCHMARK, Verdict.BENCHMARK, Verdict.KEPT], [Verdict.BENCHMARK]]


def test_documents_left_out_bind_nobody() -> None:
    # 1 and 3 are near 2 only, and 2 is a benchmark document.
    rows = [
        row(1, bands=(1, 2, 3)),
        row(2, bands=(1, 5, 6), is_hit=True),
        row(3, bands=(7, 5, 8)),
    ]
    (decision,) = decided([rows], Cleaning(near_duplicates=NearDuplicates()))

    assert decision.cluster.tolist() == [0, 0, 0]


def test_no_tables_and_empty_tables_are_no_error() -> None:
    assert decide([], Cleaning(), RULE) == []
    (decision,) = decide([table([], "a", "x")], Cleaning(), RULE)
    assert decision.verdict.size == decision.split.size == decision.cluster.size == 0


def test_reasons_are_words() -> None:
    assert [verdict.reason for verdict in Verdict] == [
        "kept",
        "duplicate id",
        "duplicate text",
        "near duplicate",
        "benchmark",
    ]
