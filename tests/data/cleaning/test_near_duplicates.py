"""MinHash against datasketch and against the Jaccard similarity that it estimates."""

import gzip
import json
import re
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH

from biomamba.data.cleaning.near_duplicates import NearDuplicates, bands_and_rows, minhash
from biomamba.data.cleaning.ngrams import HashRows, hash_ngrams, hash_texts, hash_words
from biomamba.runtime.errors import ConfigError


def bands(near: NearDuplicates, texts: list[str]) -> np.ndarray:
    words = hash_words(texts)
    return near.bands(words, hash_texts(texts, words))


def shares_a_band(found: np.ndarray, one: int, other: int) -> bool:
    return bool((found[one] == found[other]).any())


def edited(text: str, fraction: float, generator: np.random.Generator) -> str:
    words = text.split()
    for place in generator.choice(len(words), round(fraction * len(words)), replace=False):
        words[place] = f"edit{generator.integers(1 << 30)}"
    return " ".join(words)


def random_text(generator: np.random.Generator, num_words: int = 200) -> str:
    return " ".join(f"w{number}" for number in generator.integers(0, 5_000, num_words))


@pytest.mark.parametrize("num_perm", [2, 17, 128])
def test_signatures_are_those_of_datasketch(num_perm: int) -> None:
    generator = np.random.default_rng(0)
    counts = np.array([1, 5, 2, 300])
    values = generator.integers(0, 2**64, counts.sum(), dtype=np.uint64)
    rows = HashRows(values, np.cumsum(counts))
    expected = []
    for start, end in zip(rows.starts, rows.ends, strict=True):
        sketch = MinHash(num_perm=num_perm, hashfunc=lambda value: value)
        sketch.update_batch([int(value) >> 32 for value in values[start:end]])
        expected.append(sketch.hashvalues.tolist())

    assert minhash(rows, num_perm).tolist() == expected


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8])
def test_bands_are_those_that_datasketch_chooses(threshold: float) -> None:
    index = MinHashLSH(threshold=threshold, num_perm=64)

    assert bands_and_rows(threshold, 64) == (index.b, index.r)


def test_a_band_is_shared_exactly_where_its_rows_are_equal() -> None:
    generator = np.random.default_rng(1)
    near = NearDuplicates(threshold=0.5, num_perm=32)
    num_bands, num_rows = bands_and_rows(0.5, 32)
    base = random_text(generator, 100)
    texts = [edited(base, fraction, generator) for fraction in np.linspace(0, 0.1, 40)]
    words = hash_words(texts)
    found = bands(near, texts)
    signature = minhash(hash_ngrams(words, near.ngram_words), 32)
    parts = signature[:, : num_bands * num_rows].reshape(len(texts), num_bands, num_rows)
    expected = (parts[:, None] == parts[None, :]).all(axis=3)

    assert found.shape == (len(texts), num_bands)
    assert np.array_equal(found[:, None] == found[None, :], expected)
    assert 0.1 < expected.mean() < 0.9


def test_edited_copies_share_a_band_and_other_texts_do_not() -> None:
    generator = np.random.default_rng(2)
    near = NearDuplicates()
    texts = [random_text(generator) for _ in range(100)]
    copies = [edited(text, 0.02, generator) for text in texts]
    found = bands(near, texts + copies)
    num_found = sum(shares_a_band(found, i, 100 + i) for i in range(100))
    num_false = sum(shares_a_band(found, i, j) for i in range(100) for j in range(i))

    assert num_found >= 97
    assert num_false == 0


@pytest.mark.parametrize(
    ("one", "other", "is_near"),
    [
        ("one two", "One, two!", True),  # fewer words than an n-gram
        ("one two", "two one", False),
        ("one two", "one two three", False),
        ("", "", True),
        ("", "...", False),
        ("word", "other", False),
    ],
)
def test_short_texts_are_near_only_where_equal(one: str, other: str, is_near: bool) -> None:
    found = bands(NearDuplicates(), ["a text between these two", one, "x", other])

    assert shares_a_band(found, 1, 3) is is_near


def test_bands_of_a_text_do_not_depend_on_its_batch() -> None:
    texts = ["", "a b", "one two three four", "five six seven eight nine"]
    near = NearDuplicates(num_perm=16, threshold=0.5)
    alone = [bands(near, [text])[0].tolist() for text in texts]

    assert bands(near, texts).tolist() == alone
    assert bands(near, []).shape == (0, bands_and_rows(0.5, 16)[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0.0}, "threshold must be .*, found 0.0"),
        ({"threshold": 1.0}, "threshold must be .*, found 1.0"),
        ({"num_perm": 1}, "num_perm must be .*, found 1"),
        ({"ngram_words": 0}, "ngram_words must be .*, found 0"),
        ({"threshold": 0.99, "num_perm": 4}, "lower the threshold or raise num_perm"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NearDuplicates(**options)  # type: ignore[arg-type]


def test_real_abstracts_are_found_after_edits_and_not_confused(real_data: Path) -> None:
    path = real_data / "pubmed-abstracts-cohen2006" / "abstracts.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["abstract"] for line in islice(file, 1_500)]
    generator = np.random.default_rng(3)
    found = bands(NearDuplicates(), texts + [edited(text, 0.05, generator) for text in texts])
    num_found = sum(shares_a_band(found, i, len(texts) + i) for i in range(len(texts)))
    sets = [word_pairs(text) for text in texts]
    linked = {
        (i, j)
        for column in found[: len(texts)].T
        for i in np.flatnonzero(np.isin(column, repeated(column)))
        for j in np.flatnonzero(column == column[i])
        if i < j
    }

    assert num_found > 0.9 * len(texts)
    assert all(len(sets[i] & sets[j]) > 0.5 * len(sets[i] | sets[j]) for i, j in linked)


def repeated(values: np.ndarray) -> np.ndarray:
    unique, counts = np.unique(values, return_counts=True)
    return unique[counts > 1]


def word_pairs(text: str) -> set[tuple[str, str]]:
    return set(pairwise(re.findall(r"\w+", text.casefold())))
