"""What is right or wrong in a clinical text that was written from another one.

Rules over words, numbers and a list of findings; no model and no service is asked. Each figure
says what it saw, not that a text is safe: docs/clinical.md lists what the rules cannot see.
"""

from collections.abc import Collection, Sequence

import numpy as np

from biomamba.metrics.measure import Measure, mean, proportion, ratio
from biomamba.metrics.negation import statuses_of
from biomamba.metrics.quantities import doses_of, numbers_of
from biomamba.metrics.word_runs import grams_of, longest_shared_run, words_of

COPY_WORDS = 4


def section_coverage(
    found: Sequence[Collection[str]], wanted: Sequence[Collection[str]]
) -> Measure:
    """Return the share of the headings of a reference that its output has, as a mean over items.

    Items whose reference has no heading are left out.
    """
    shares = np.array(
        [
            len(set(names) & set(seen)) / len(set(names)) if names else 0.0
            for seen, names in zip(found, wanted, strict=True)
        ]
    )
    has_headings = np.array([float(bool(names)) for names in wanted])
    return ratio("section_coverage", shares, has_headings)


def unsupported_numbers(outputs: Sequence[str], sources: Sequence[str]) -> Measure:
    """Return the share of the numbers written that the source does not hold, spelled or not."""
    written = [numbers_of(output, spelled=False) for output in outputs]
    known = [set(numbers_of(source, spelled=True)) for source in sources]
    return _unsupported("unsupported_number_ratio", written, known)


def unsupported_doses(outputs: Sequence[str], sources: Sequence[str]) -> Measure:
    """Return the share of the numbers with a unit whose number and unit the source does not hold.

    A source that gives the number without the unit does not support a dose.
    """
    written = [doses_of(output, spelled=False) for output in outputs]
    known = [set(doses_of(source, spelled=True)) for source in sources]
    return _unsupported("unsupported_dose_ratio", written, known)


def _unsupported(
    name: str, written: Sequence[Sequence[object]], known: Sequence[Collection[object]]
) -> Measure:
    pairs = zip(written, known, strict=True)
    unsupported = [sum(value not in values for value in found) for found, values in pairs]
    return ratio(
        name,
        np.array(unsupported, dtype=np.float64),
        np.array([len(found) for found in written], dtype=np.float64),
        higher_is_better=False,
    )


def negation_flips(outputs: Sequence[str], sources: Sequence[str]) -> Measure:
    """Return the share of the findings told in both texts that one negates and the other affirms.

    A finding that a text both negates and affirms is left out.
    """
    flips, shared = [], []
    for output, source in zip(outputs, sources, strict=True):
        written, known = statuses_of(output), statuses_of(source)
        both = written.keys() & known.keys()
        flips.append(float(sum(written[name] != known[name] for name in both)))
        shared.append(float(len(both)))
    return ratio("negation_flip_ratio", np.array(flips), np.array(shared), higher_is_better=False)


def copying(outputs: Sequence[str], sources: Sequence[str]) -> list[Measure]:
    """Return the mean share of runs of 4 words that are in the source, and its longest run."""
    shares, runs = [], []
    for output, source in zip(outputs, sources, strict=True):
        written, known = words_of(output), words_of(source)
        grams, known_grams = grams_of(written, COPY_WORDS), set(grams_of(known, COPY_WORDS))
        copied = sum(gram in known_grams for gram in grams)
        shares.append(copied / len(grams) if grams else 0.0)
        runs.append(float(longest_shared_run(written, known)))
    return [
        mean("copied_4gram_ratio", np.array(shares), higher_is_better=None),
        mean("longest_copied_words", np.array(runs), higher_is_better=None),
    ]


def lengths(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[Measure]:
    """Return the mean ratio of words to those of the first reference, and the share left empty."""
    written = np.array([len(words_of(output)) for output in outputs], dtype=np.float64)
    wanted = np.array([max(1, len(words_of(texts[0]))) for texts in references], dtype=np.float64)
    is_empty = np.array([not output.strip() for output in outputs], dtype=np.bool_)
    return [
        mean("length_ratio", written / wanted, higher_is_better=None),
        proportion("empty_output_ratio", is_empty, higher_is_better=False),
    ]
