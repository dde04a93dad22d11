"""Near-duplicate texts: MinHash over word n-grams, linked where a band of values is equal.

Links are not verified. On 13,450 PubMed abstracts (90 million pairs) the defaults linked 13 pairs,
all of them copies (similarity 0.73 to 1), and found 99.8, 94 and 57 % of abstracts after edits to
2, 5 and 10 % of the words; runs of 5 words found 90, 37 and 3 %. False links grow with the square
of the number of documents: at threshold 0.5 they would join most of 24 million abstracts into one
cluster. See docs/results/contamination.md.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from biomamba.data.cleaning.ngrams import (
    Hashes,
    HashRows,
    hash_ngrams,
    odd_factors,
    scramble,
)
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_number, check_whole


@dataclass(frozen=True)
class NearDuplicates:
    """Texts whose sets of word n-grams have a Jaccard similarity of about `threshold` or more.

    Attributes:
        threshold: Similarity at which bands and rows are balanced, between 0 and 1.
        num_perm: Permutations of a signature.
        ngram_words: Words per n-gram; a shorter text is one n-gram.
        drop: Keep one document of each cluster; False keeps all of them, in one split.
    """

    threshold: float = 0.7
    num_perm: int = 128
    ngram_words: int = 2
    drop: bool = False

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, above=0, below=1)
        check_whole("num_perm", self.num_perm, at_least=2)
        check_whole("ngram_words", self.ngram_words)
        bands_and_rows(self.threshold, self.num_perm)

    def settings(self) -> dict[str, Any]:
        """Return everything that decides which texts count as near-duplicates."""
        return asdict(self)

    def bands(self, words: HashRows, texts: Hashes) -> Hashes:
        """Hash the bands of each text, `(texts, bands)`; near-duplicates share one or more.

        Args:
            words: The words of the texts.
            texts: One hash per text, the n-gram of a text with fewer words than that.
        """
        shingles = _at_least_one(hash_ngrams(words, self.ngram_words), texts)
        num_bands, num_rows = bands_and_rows(self.threshold, self.num_perm)
        signature = minhash(shingles, self.num_perm)[:, : num_bands * num_rows].astype(np.uint64)
        weighed = signature.reshape(-1, num_bands, num_rows) * odd_factors(num_rows)
        return scramble(weighed.sum(axis=2, dtype=np.uint64))


@cache
def bands_and_rows(threshold: float, num_perm: int) -> tuple[int, int]:
    """Return the number of bands and the values in each, as datasketch balances them.

    Raises:
        ConfigError: If the permutations are too few for the threshold.
    """
    try:
        index = MinHashLSH(threshold=threshold, num_perm=num_perm)
    except ValueError as error:
        raise ConfigError(
            f"near-duplicate threshold {threshold} with num_perm {num_perm}: {error}; "
            "lower the threshold or raise num_perm"
        ) from error
    return int(index.b), int(index.r)


def minhash(shingles: HashRows, num_perm: int) -> NDArray[np.uint32]:
    """Return the signature of each row, `(rows, num_perm)`; no row may be empty.

    The values are those of `datasketch.MinHash` for the upper 32 bits of the hashes, all rows of
    a permutation at once.
    """
    mixed = _scramble32((shingles.values >> np.uint64(32)).astype(np.uint32))
    starts = shingles.starts
    signature = np.empty((starts.size, num_perm), np.uint32)
    permuted = np.empty_like(mixed)
    for number, (factor, shift) in enumerate(_permutations(num_perm)):
        np.multiply(mixed, factor, out=permuted)
        np.add(permuted, shift, out=permuted)
        signature[:, number] = np.minimum.reduceat(permuted, starts)
    return signature


@cache
def _permutations(num_perm: int) -> Sequence[tuple[np.uint32, np.uint32]]:
    factors, shifts = MinHash(num_perm=num_perm, scheme="affine32").permutations
    return list(zip(factors, shifts, strict=True))


def _scramble32(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Spread 32-bit values evenly.

    Source: finalizer of MurmurHash3, 32 bits, as datasketch 2.0.0 applies before permuting.
    """
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def _at_least_one(rows: HashRows, texts: Hashes) -> HashRows:
    is_empty = rows.counts == 0
    values = np.insert(rows.values, rows.starts[is_empty], texts[is_empty])
    return HashRows(values, rows.ends + np.cumsum(is_empty))
