"""Words and the runs of them that two texts share."""

import numpy as np
import pytest

from biomamba.metrics.overlap import SharedRuns, covered, grams_of, longest_shared_run, words_of


def test_words_are_lower_case_and_numbers_keep_their_point() -> None:
    text = "Gave 2.5 mg, then 1,000 mL; T-cell (___) \u00c9tat."

    assert words_of(text) == ["gave", "2.5", "mg", "then", "1,000", "ml", "t", "cell", "\u00e9tat"]


def test_there_is_a_gram_per_place_where_one_begins() -> None:
    assert grams_of(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert grams_of(["a"], 2) == []


def test_the_longest_shared_run_is_that_of_all_pairs_of_places() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        first, second = (
            [str(word) for word in rng.integers(0, 4, size=rng.integers(0, 15))] for _ in range(2)
        )
        runs = [
            length
            for i in range(len(first))
            for j in range(len(second))
            for length in range(1, min(len(first) - i, len(second) - j) + 1)
            if first[i : i + length] == second[j : j + length]
        ]

        assert longest_shared_run(first, second) == max(runs, default=0)


def test_a_word_is_covered_if_any_gram_over_it_is_known() -> None:
    words = ["a", "b", "c", "d", "e"]

    assert covered(words, {("b", "c")}, 2) == [False, True, True, False, False]
    assert covered(words, {("a", "b"), ("b", "c")}, 2) == [True, True, True, False, False]
    assert covered(words, set(), 2) == [False] * 5


def test_the_run_that_ends_with_each_word_is_that_of_all_places() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        text, other = (
            [str(word) for word in rng.integers(0, 3, size=rng.integers(0, 20))] for _ in range(2)
        )
        expected = [
            max(
                length
                for length in range(end + 1)
                if not length
                or any(
                    text[start : start + length] == other[end - length : end]
                    for start in range(len(text) - length + 1)
                )
            )
            for end in range(1, len(other) + 1)
        ]

        assert list(SharedRuns(text).lengths(other)) == expected


class CountedWord(str):
    """A word that counts how often it is looked up."""

    __slots__ = ()
    count = 0

    def __hash__(self) -> int:
        CountedWord.count += 1
        return super().__hash__()


@pytest.mark.parametrize("period", [1, 2, 7])
def test_repetitive_texts_take_steps_in_proportion_to_their_words(period: int) -> None:
    counts = []
    for num_words in (1_000, 4_000):
        words = [CountedWord(f"w{n % period}") for n in range(num_words)]
        CountedWord.count = 0
        assert longest_shared_run(words, words) == num_words
        counts.append(CountedWord.count)

    assert counts[1] < 5 * counts[0]
