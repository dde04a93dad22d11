"""What generated texts repeat of training notes, word for word, before they leave a machine.

The texts are indexed, the notes are read once, one after the other. Only counts and hashes leave
this module.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomamba.data.rows import TextFault, parse_row, read_text_file
from biomamba.metrics.overlap import Gram, SharedRuns, grams_of, words_of
from biomamba.runtime.errors import DataError
from biomamba.runtime.numbers import check_whole


@dataclass(frozen=True, kw_only=True)
class VerbatimSettings:
    """What counts as repeated.

    Attributes:
        run_words: So many words in a row, at least, in a text and in one note.
    """

    run_words: int = 20

    def __post_init__(self) -> None:
        check_whole("run_words", self.run_words, at_least=2)


@dataclass(kw_only=True)
class Repeated:
    """What one text repeats.

    Attributes:
        num_words: Words of the text.
        num_notes: Notes that share a long run with it.
        longest_run_words: Words of the longest run; 0 without one.
        longest_run_sha256: Of its words joined by spaces; empty without one.
        num_repeated_words: Words that are in a run.
    """

    num_words: int
    num_notes: int = 0
    longest_run_words: int = 0
    longest_run_sha256: str = ""
    num_repeated_words: int = 0


@dataclass
class VerbatimAudit:
    """Generated texts, compared with one note after the other.

    Attributes:
        texts: The texts by name.
        settings: What counts.
    """

    texts: Mapping[str, str]
    settings: VerbatimSettings
    num_notes: int = 0
    _words: dict[str, list[str]] = field(init=False)
    _places: dict[Gram, dict[str, list[int]]] = field(init=False, default_factory=dict)
    _covered: dict[str, NDArray[np.bool_]] = field(init=False)
    _runs: dict[str, SharedRuns] = field(init=False, default_factory=dict)
    _found: dict[str, Repeated] = field(init=False)

    def __post_init__(self) -> None:
        self._words = {name: words_of(text) for name, text in self.texts.items()}
        self._covered = {name: np.zeros(len(w), np.bool_) for name, w in self._words.items()}
        self._found = {name: Repeated(num_words=len(w)) for name, w in self._words.items()}
        for name, words in self._words.items():
            for start, gram in enumerate(grams_of(words, self.settings.run_words)):
                self._places.setdefault(gram, {}).setdefault(name, []).append(start)

    def add(self, note: str) -> None:
        """Compare all texts with a note.

        Each place of a text is looked at once, however often the note repeats the run there.
        """
        self.num_notes += 1
        length = self.settings.run_words
        words = words_of(note)
        starts: dict[str, list[int]] = {}
        for gram in dict.fromkeys(grams_of(words, length)):
            for name, places in self._places.get(gram, {}).items():
                starts.setdefault(name, []).extend(places)
        for name, places in starts.items():
            covered = self._covered[name]
            # +1 where a run starts and -1 after its end: the sum says how many are over a word.
            change = np.zeros(covered.size + 1, np.int64)
            np.add.at(change, places, 1)
            np.add.at(change, np.array(places) + length, -1)
            covered |= np.cumsum(change)[:-1] > 0
            self._found[name].num_notes += 1
            self._note_longest(name, words)

    def _note_longest(self, name: str, words: Sequence[str]) -> None:
        """Keep the longest run of a text and the words of a note; of equal ones the first."""
        if name not in self._runs:
            self._runs[name] = SharedRuns(self._words[name])
        found = self._found[name]
        longest, last = found.longest_run_words, 0
        for end, num_words in enumerate(self._runs[name].lengths(words), start=1):
            if num_words > max(longest, self.settings.run_words - 1):
                longest, last = num_words, end
        if last:
            run = " ".join(words[last - longest : last])
            found.longest_run_words = longest
            found.longest_run_sha256 = sha256(run.encode()).hexdigest()

    def results(self) -> dict[str, Repeated]:
        """Return what each text repeats, by its name."""
        for name, covered in self._covered.items():
            self._found[name].num_repeated_words = int(covered.sum())
        return dict(self._found)


def read_texts(path: Path) -> dict[str, str]:
    """Return the texts of a file of biomamba.generate or of predictions, by line and candidate.

    Raises:
        DataError: It cannot be read, a line is damaged, or it holds no texts, as predictions of
            restricted tasks. No text is repeated.
    """
    found: dict[str, str] = {}
    for number, row in _rows(path):
        texts = row.get("candidates", row.get("text"))
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            continue
        for rank, text in enumerate(texts, start=1):
            found[f"line {number}" + (f", candidate {rank}" if len(texts) > 1 else "")] = text
    if not found:
        raise DataError(
            f"{path} holds no texts (`text` or `candidates`); predictions of restricted tasks keep "
            "none: audit a file of biomamba.generate"
        )
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Only the end of a line ends a row: JSON may hold U+2028 and U+0085 as they are.
    for number, line in enumerate(read_text_file(path).split("\n"), start=1):
        try:
            row = parse_row(line) if line.strip() else {}
        except TextFault as fault:
            raise DataError(f"{path}, line {number}: {fault}; write the file again") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not an object; write the file again")
        yield number, row
