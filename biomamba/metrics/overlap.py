"""How much of the wording of references is found in outputs: ROUGE and BLEU.

An empty output scores 0. With several references the best one counts for ROUGE; BLEU takes the
n-grams of all of them and the length of the closest, as sacrebleu does.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

from biomamba.metrics.measure import Measure, mean

_ROUGE = {"rouge1": "rouge1_f", "rouge2": "rouge2_f", "rougeL": "rougel_f"}
_ORDER = 4


def rouge(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[Measure]:
    """Return the mean F of ROUGE-1, ROUGE-2 and ROUGE-L, from 0 to 1, with Porter's stemmer.

    Source: rouge-score of Google Research; LeoYML/BioMamba@e61db22 calls it the same way.
    """
    scores = [
        _rouge_scorer().score_multi(list(texts), output)
        for output, texts in zip(outputs, references, strict=True)
    ]
    return [
        mean(name, np.array([score[kind].fmeasure for score in scores], dtype=np.float64))
        for kind, name in _ROUGE.items()
    ]


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Measure:
    """Return corpus BLEU, from 0 to 100: that of sacrebleu with its default settings.

    The columns are what sacrebleu sums over a corpus: length of the output, length of the closest
    reference, and per order of n-gram those matched and those written.
    """
    counter = BLEU(effective_order=True)  # effective_order is of the score of a single text only
    columns = np.zeros((len(outputs), 2 + 2 * _ORDER))
    for row, output, texts in zip(columns, outputs, references, strict=True):
        found = counter.sentence_score(output, list(texts))
        row[:] = [found.sys_len, found.ref_len, *found.counts, *found.totals]
    return Measure("bleu", columns, _corpus_bleu)


def signatures(references: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return what identifies the computation of each figure, to be beside it in a record."""
    counts = sorted({len(texts) for texts in references})
    num_references = str(counts[0]) if len(counts) == 1 else "var"
    metric = BLEU()
    metric.corpus_score(["a"], [["a"]])
    settings = str(metric.get_signature()).partition("|")[2]
    rouge_version = f"rouge-score {version('rouge-score')}, stemmer, best reference"
    return {"bleu": f"nrefs:{num_references}|{settings}"} | dict.fromkeys(
        _ROUGE.values(), rouge_version
    )


@cache
def _rouge_scorer() -> Any:
    """Return the scorer; without a tokenizer of its own it would log a line whenever it is made."""
    from rouge_score import rouge_scorer, tokenizers  # imports nltk, which takes seconds

    tokenizer = tokenizers.DefaultTokenizer(use_stemmer=True)
    return rouge_scorer.RougeScorer(list(_ROUGE), tokenizer=tokenizer)


def _corpus_bleu(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return BLEU of each row of sums."""
    bounds = (2, 2 + _ORDER, 2 + 2 * _ORDER)
    values = []
    for row in sums:
        correct, total = (row[low:high].tolist() for low, high in pairwise(bounds))
        values.append(BLEU.compute_bleu(correct, total, round(row[0]), round(row[1]), "exp").score)
    return np.array(values, dtype=np.float64)


# -------------------------------------------------------------------------------------------------
# Words of a text, and the runs of words that two texts share.
# -------------------------------------------------------------------------------------------------

# A number keeps its point and its commas, so that 2.5 and 1,000 are one word each.
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
Gram = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """Return the words and numbers of a text in lower case, without punctuation."""
    return [match[0].lower() for match in _WORD.finditer(text)]


def grams_of(words: Sequence[str], length: int) -> list[Gram]:
    """Return all runs of `length` words, one per place where one starts."""
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]


def covered(words: Sequence[str], grams: Collection[Gram], length: int) -> list[bool]:
    """Tell for each word whether a run of `length` words over it is one of the grams."""
    is_covered = [False] * len(words)
    end = 0  # words before it need no second look
    for start, gram in enumerate(grams_of(words, length)):
        if gram in grams:
            first = max(start, end)
            end = start + length
            is_covered[first:end] = [True] * (end - first)
    return is_covered


class SharedRuns:
    """The runs of words of one text, to find them in others; a suffix automaton.

    Building it and reading another text take a number of steps that is proportional to the words
    of each, however repetitive they are.

    Source: Blumer et al., The smallest automaton recognizing the subwords of a text, 1985.

    Args:
        words: Of the text.
    """

    def __init__(self, words: Iterable[str]) -> None:
        # Of each state: the words that lead on, the state of its longest proper suffix that is
        # followed by other words too, and the length of its longest run.
        self._next: list[dict[str, int]] = [{}]
        self._link = [-1]
        self._length = [0]
        last = 0
        for word in words:
            last = self._append(last, word)

    def _append(self, last: int, word: str) -> int:
        new = self._state({}, -1, self._length[last] + 1)
        state = last
        while state >= 0 and word not in self._next[state]:
            self._next[state][word] = new
            state = self._link[state]
        self._link[new] = 0 if state < 0 else self._split(state, word)
        return new

    def _split(self, state: int, word: str) -> int:
        """Return the state of exactly the longest run of `state` followed by the word."""
        target = self._next[state][word]
        if self._length[state] + 1 == self._length[target]:
            return target
        # The target stands for longer runs too, which are followed by fewer words.
        copy = self._state(dict(self._next[target]), self._link[target], self._length[state] + 1)
        self._link[target] = copy
        while state >= 0 and self._next[state].get(word) == target:
            self._next[state][word] = copy
            state = self._link[state]
        return copy

    def _state(self, following: dict[str, int], link: int, length: int) -> int:
        self._next.append(following)
        self._link.append(link)
        self._length.append(length)
        return len(self._next) - 1

    def lengths(self, words: Iterable[str]) -> Iterator[int]:
        """Yield for each word how long the run is that ends with it and is in the text."""
        state = length = 0
        for word in words:
            while state and word not in self._next[state]:
                state = self._link[state]
                length = self._length[state]
            if word in self._next[state]:
                state, length = self._next[state][word], length + 1
            yield length


def longest_shared_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many words the longest run has that is in both."""
    return max(SharedRuns(first).lengths(second), default=0) if first else 0
