r"""Words and word n-grams of a batch of texts as 64-bit hashes.

A word is a run of `\w` after NFKC and case folding, so that case, punctuation, line breaks, spaced
punctuation (WikiText), full-width forms, soft hyphens and composed against decomposed letters make
no difference. A language
written without spaces gives few and long words, in which little is found. The hashes are the same
in every process and on every machine (but for characters that are new in the Unicode tables of one
of two Python versions). All words of a batch are hashed by a few passes over its characters,
without a Python object per word.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_NUM_CODE_POINTS = 0x110000
_CHUNK_CHARS = 1 << 17  # what is in work stays in the processor's cache
# Characters that nobody sees: soft hyphen, zero-width and joining characters, marks of direction,
# variation selectors, byte order mark. Inside a word they would cut it in two.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]"
)


@dataclass(frozen=True)
class HashRows:
    """One row of hashes for each text of a batch, laid end to end.

    Attributes:
        values: All hashes, `(total,)`.
        ends: End of each row in `values`, `(texts,)`.
    """

    values: Hashes
    ends: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Start of each row in `values`, `(texts,)`."""
        return self.ends - self.counts

    @property
    def counts(self) -> NDArray[np.int64]:
        """Length of each row, `(texts,)`."""
        return np.diff(self.ends, prepend=0)


def hash_words(texts: Sequence[str]) -> HashRows:
    """Hash the words of each text, in order."""
    forms = [normalised(text) for text in texts]
    sizes = np.cumsum([0, *map(len, forms)])
    cuts = np.flatnonzero(np.diff(sizes // _CHUNK_CHARS)) + 1
    parts = [_hash_chunk(forms[a:b]) for a, b in pairwise([0, *cuts.tolist(), len(forms)])]
    counts = np.concatenate([part_counts for _, part_counts in parts])
    return HashRows(np.concatenate([values for values, _ in parts]), np.cumsum(counts))


def hash_ngrams(words: HashRows, num_words: int) -> HashRows:
    """Hash every run of `num_words` words; a run never crosses texts.

    A text with fewer words has an empty row.
    """
    counts = np.maximum(words.counts - num_words + 1, 0)
    num_starts = max(words.values.size - num_words + 1, 0)
    sums = np.zeros(num_starts, np.uint64)
    for place, factor in enumerate(odd_factors(num_words)):
        sums += words.values[place : place + num_starts] * factor
    is_inside = np.ones(num_starts, np.bool_)
    for end in words.ends[:-1]:
        is_inside[max(int(end) - num_words + 1, 0) : end] = False
    return HashRows(scramble(sums[is_inside]), np.cumsum(counts))


def hash_texts(texts: Sequence[str], words: HashRows) -> Hashes:
    """Hash each text by its words, `(texts,)`; one without words by its characters."""
    stored = words.values.astype("<u8", copy=False)
    return np.fromiter(
        (
            _digest(stored[start:end].tobytes() if start < end else b"text " + _encoded(text))
            for text, start, end in zip(texts, words.starts, words.ends, strict=True)
        ),
        np.uint64,
        len(texts),
    )


def normalised(text: str) -> str:
    """Return the text in the form whose words are compared."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    return unicodedata.normalize("NFKC", folded)  # case folding can take letters apart


def match_key(text: str) -> str:
    """Return the letters and digits of a text in their compared form, without anything between.

    Two items with the same key ask the same: case, punctuation, white space, full-width forms and
    invisible characters make no difference. A text without letters and digits is its own key.
    """
    form = normalised(text)
    return "".join(character for character in form if character.isalnum()) or form


def scramble(values: Hashes) -> Hashes:
    """Spread 64-bit values evenly; a bijection.

    Source: finalizer of MurmurHash3, 64 bits.
    """
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(factor)
    return values ^ (values >> np.uint64(33))


def odd_factors(count: int) -> Hashes:
    """Return fixed odd numbers to weigh the places of a run by."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return scramble(steps) | np.uint64(1)


def _hash_chunk(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the hashes of the words of all texts and the number of words in each."""
    joined = "\n".join([*texts, ""])
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
    in_word = np.flatnonzero(_is_word_character()[points])
    is_start = np.diff(in_word, prepend=-2) > 1
    starts = np.flatnonzero(is_start)
    place = np.arange(in_word.size) - starts[np.cumsum(is_start) - 1]
    factors = odd_factors(int(place.max(initial=-1)) + 1)
    terms = _point_hashes()[points[in_word]] * factors[place]
    text_ends = np.cumsum([len(text) + 1 for text in texts])
    words_before = np.searchsorted(in_word[starts], text_ends)
    values = np.add.reduceat(terms, starts) if starts.size else np.empty(0, np.uint64)
    return scramble(values), np.diff(words_before, prepend=0)


@cache
def _is_word_character() -> NDArray[np.bool_]:
    points = map(chr, range(_NUM_CODE_POINTS))
    table = np.fromiter((point.isalnum() for point in points), np.bool_, _NUM_CODE_POINTS)
    table[ord("_")] = True
    return table


@cache
def _point_hashes() -> Hashes:
    return scramble(np.arange(1, _NUM_CODE_POINTS + 1, dtype=np.uint64))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _digest(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")
