"""Words and n-grams against plain Python, and their stability."""

import re
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from itertools import chain, product

import numpy as np
import pytest

from biomamba.data.cleaning import ngrams as words_module
from biomamba.data.cleaning.ngrams import HashRows, hash_ngrams, hash_texts, hash_words

TEXTS = [
    "",
    "One two three, four FIVE six.",
    "...",
    "seven",
    "one two\nthree four-five six",
    "\u03b1-synuclein \u0391-Synuclein",
    "a b a b a b a b",
]


def rows(hashed: HashRows) -> list[list[int]]:
    return [
        hashed.values[start:end].tolist()
        for start, end in zip(hashed.starts, hashed.ends, strict=True)
    ]


def plain_words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def equal_pattern(values: Sequence[object]) -> list[int]:
    """Name each value by the place where it first occurs."""
    first: dict[object, int] = {}
    return [first.setdefault(value, place) for place, value in enumerate(values)]


def test_words_are_normalised_runs_of_word_characters() -> None:
    expected = [plain_words(text) for text in TEXTS]
    hashed = rows(hash_words(TEXTS))

    assert [len(row) for row in hashed] == [len(row) for row in expected]
    assert equal_pattern(list(chain(*hashed))) == equal_pattern(list(chain(*expected)))


@pytest.mark.parametrize("chunk_chars", [1, 7, 40])
def test_words_do_not_depend_on_how_the_batch_is_cut(
    chunk_chars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows(hash_words(TEXTS))
    monkeypatch.setattr(words_module, "_CHUNK_CHARS", chunk_chars)

    assert rows(hash_words(TEXTS)) == whole


def test_different_words_have_different_hashes() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789_"
    short = ["".join(word) for n in (1, 2, 3) for word in product(letters, repeat=n)]
    long = ["a" * n for n in range(4, 300)] + ["ab" * n for n in range(2, 300)]
    hashes = hash_words([" ".join(short + long)]).values

    assert np.unique(hashes).size == len(short) + len(long)
    assert np.unique(hashes >> np.uint64(40)).size > 0.99 * len(hashes)  # upper bits differ too


def test_every_character_is_classified_as_the_regular_expression_does() -> None:
    points = [chr(point) for point in range(0x110000)]
    expected = np.array([re.match(r"\w", point) is not None for point in points])

    assert np.array_equal(words_module._is_word_character(), expected)


@pytest.mark.parametrize("num_words", [1, 2, 3, 13])
def test_ngrams_are_equal_where_their_words_are_and_never_cross_texts(num_words: int) -> None:
    expected = [
        [tuple(found[i : i + num_words]) for i in range(len(found) - num_words + 1)]
        for found in map(plain_words, TEXTS)
    ]
    hashed = rows(hash_ngrams(hash_words(TEXTS), num_words))
    by_hash: dict[int, tuple[str, ...]] = {}

    assert [len(row) for row in hashed] == [len(row) for row in expected]
    for hashes, ngrams in zip(hashed, expected, strict=True):
        for value, ngram in zip(hashes, ngrams, strict=True):
            assert by_hash.setdefault(value, ngram) == ngram
    assert len(by_hash) == len({ngram for row in expected for ngram in row})


def test_the_ngrams_of_a_batch_are_those_of_each_text_alone() -> None:
    alone = [rows(hash_ngrams(hash_words([text]), 3))[0] for text in TEXTS]

    assert rows(hash_ngrams(hash_words(TEXTS), 3)) == alone


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Heart failure.", "heart\n FAILURE"),
        ("caf\u00e9", "cafe\u0301"),  # composed and decomposed
        ("\u00b5g/ml", "\u03bcg/ml"),  # micro sign and Greek mu
        ("10 @,@ 000 don 't", "10,000 don't"),  # WikiText punctuation
        ("stra\u00dfe", "STRASSE"),
        ("A\u00a0B", "A B"),  # no-break space
        ("\uff21\uff22", "AB"),  # full width
    ],
)
def test_texts_of_the_same_words_have_one_hash(one: str, other: str) -> None:
    first, second = hash_texts([one, other], hash_words([one, other]))

    assert first == second


def test_order_number_and_borders_of_words_change_the_hash() -> None:
    texts = ["a b c", "c b a", "a b", "ab c", "a b c c", "", "...", "!", "text ..."]

    assert len(set(hash_texts(texts, hash_words(texts)).tolist())) == len(texts)


def test_hashes_are_the_same_in_another_process() -> None:
    code = (
        "from biomamba.data.cleaning.ngrams import *;"
        "w = hash_words(['Heart failure in \\u03b1']);"
        "print(w.values.tolist(), hash_ngrams(w, 2).values.tolist(), hash_texts([''], w).tolist())"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    seeds = [{"PYTHONHASHSEED": seed} for seed in ("1", "2")]
    printed = [subprocess.check_output(command, env=env, text=True) for env in seeds]

    assert printed[0] == printed[1]


def test_ngram_hashes_never_change() -> None:
    # Staged shards hold such hashes: another value means another STAGE_VERSION.
    words = hash_words(["in heart failure"])

    assert hash_ngrams(words, 2).values.tolist() == [17897401619653842561, 9250356808422647038]


def test_lone_surrogates_and_no_texts_are_no_error() -> None:
    texts = ["a \ud800 b"]

    assert hash_texts(texts, hash_words(texts)).size == 1
    assert rows(hash_words([])) == []
    assert hash_ngrams(hash_words([]), 3).values.size == 0
    assert hash_texts([], hash_words([])).dtype == np.uint64
