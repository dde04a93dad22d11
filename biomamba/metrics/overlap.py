"""How much of the wording of references is found in outputs: ROUGE and BLEU.

An empty output scores 0. With several references the best one counts for ROUGE; BLEU takes the
n-grams of all of them and the length of the closest, as sacrebleu does.
"""

from collections.abc import Sequence
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
    """Return what identifies the computation of each figure, to stand beside it in a record."""
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
