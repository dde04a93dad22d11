"""Words of a text, and the runs of words that two texts share."""

import re
from collections.abc import Collection, Sequence

# A number keeps its point and its commas, so that 2.5 and 1,000 are one word each.
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")

Gram = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """Return the words and numbers of a text in lower case, without punctuation."""
    return [match[0].lower() for match in _WORD.finditer(text)]


def grams_of(words: Sequence[str], length: int) -> list[Gram]:
    """Return all runs of `length` words, one per place where one begins."""
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]


def covered(words: Sequence[str], grams: Collection[Gram], length: int) -> list[bool]:
    """Tell for each word whether a run of `length` words over it is one of the grams."""
    is_covered = [False] * len(words)
    for start, gram in enumerate(grams_of(words, length)):
        if gram in grams:
            is_covered[start : start + length] = [True] * length
    return is_covered


def longest_shared_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many words the longest run has that stands in both.

    A shared run of n words holds one of n - 1 words, so the length is found by halving.
    """
    low, high = 0, min(len(first), len(second))
    while low < high:
        length = (low + high + 1) // 2
        if set(grams_of(first, length)).isdisjoint(grams_of(second, length)):
            high = length - 1
        else:
            low = length
    return low
