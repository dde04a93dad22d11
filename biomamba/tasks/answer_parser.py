"""The one reading of a generated answer to a question that wants a label.

The rule is strict, because what it cannot read counts as wrong and is reported as unparsable,
whereas a guess would be a figure about the guess:

1. A line is cut into clauses at punctuation and behind "answer is"; `-` and an apostrophe inside a
   word belong to it.
2. A label counts where it opens or closes a clause, as whole words in any case, after `and`, `or`
   or `but` too: "No, it is not" and "The answer is yes since it helps", but not "normal", "there is
   no evidence" or "not yes".
3. The first line in which a label counts decides: if all that count there are the same one, it is
   the answer; "yes and no", "Yes, no" and "no / maybe" are none.

"Yes, because no patient died" is "yes": its "no" neither opens nor closes a clause.
"""

import re
import unicodedata
from collections.abc import Sequence

_WORD_OR_MARK = re.compile(r"([^\W_]+(?:['\u2019-][^\W_]+)*)|[^\w\s]|_")
_CONJUNCTIONS = ("and", "or", "but")
_NEGATION = ("not",)
_ANNOUNCEMENT = ["answer", "is"]
Words = tuple[str, ...]


def parse_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that a generated answer stands for; None if it is not exactly one.

    Raises:
        ValueError: The labels are not distinct words.
    """
    names: dict[Words, str] = {}
    for label in labels:
        clauses = _clauses(label)
        if len(clauses) != 1 or clauses[0] in names:
            raise ValueError(f"labels must be distinct and of words alone, got {list(labels)}")
        names[clauses[0]] = label
    for line in text.splitlines():
        found = {name for clause in _clauses(line) for name in _standing(clause, list(names))}
        if found:
            return names[found.pop()] if len(found) == 1 else None
    return None


def _clauses(line: str) -> list[Words]:
    """Return the words of the clauses of a line, those without words left out."""
    clauses: list[list[str]] = [[]]
    for token in _WORD_OR_MARK.finditer(unicodedata.normalize("NFC", line).casefold()):
        if token[1]:
            clauses[-1].append(token[1])
        if not token[1] or clauses[-1][-2:] == _ANNOUNCEMENT:
            clauses.append([])
    return [tuple(clause) for clause in clauses if clause]


def _standing(clause: Words, names: Sequence[Words]) -> set[Words]:
    """Return the labels that open and close a clause."""
    while clause and clause[0] in _CONJUNCTIONS:
        clause = clause[1:]
    longest_first = sorted(names, key=len, reverse=True)
    opening = next((name for name in longest_first if clause[: len(name)] == name), None)
    closing = next((name for name in longest_first if clause[-len(name) :] == name), None)
    if closing is not None and clause[: -len(closing)][-1:] == _NEGATION:
        closing = None
    return {name for name in (opening, closing) if name is not None}
