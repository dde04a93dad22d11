"""What generated texts repeat of training notes, word for word, before they leave a machine.

The texts are indexed, the notes are read once, one after the other. Only counts and hashes leave
this module.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from biomamba.metrics.word_runs import Gram, grams_of, words_of
from biomamba.runtime.errors import DataError
from biomamba.runtime.numbers import check_whole

Place = tuple[str, int]  # of a run: the name of its text and the word at which it begins


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
        num_repeated_words: Words that stand in a run.
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
    _places: dict[Gram, list[Place]] = field(init=False, default_factory=dict)
    _covered: dict[str, set[int]] = field(init=False)
    _found: dict[str, Repeated] = field(init=False)

    def __post_init__(self) -> None:
        self._words = {name: words_of(text) for name, text in self.texts.items()}
        self._covered = {name: set() for name in self.texts}
        self._found = {name: Repeated(num_words=len(w)) for name, w in self._words.items()}
        for name, words in self._words.items():
            for start, gram in enumerate(grams_of(words, self.settings.run_words)):
                self._places.setdefault(gram, []).append((name, start))

    def add(self, note: str) -> None:
        """Compare all texts with a note."""
        self.num_notes += 1
        length = self.settings.run_words
        last: dict[Place, int] = {}  # words of the runs that end at the word before
        touched = set()
        for gram in grams_of(words_of(note), length):
            here = {}
            for name, start in self._places.get(gram, ()):
                run = here[name, start] = last.get((name, start - 1), length - 1) + 1
                self._covered[name].update(range(start, start + length))
                self._note_run(name, start + length, run)
                touched.add(name)
            last = here
        for name in touched:
            self._found[name].num_notes += 1

    def _note_run(self, name: str, end: int, num_words: int) -> None:
        found = self._found[name]
        if num_words > found.longest_run_words:
            run = " ".join(self._words[name][end - num_words : end])
            found.longest_run_words = num_words
            found.longest_run_sha256 = sha256(run.encode()).hexdigest()

    def results(self) -> dict[str, Repeated]:
        """Return what each text repeats, by its name."""
        for name, words in self._covered.items():
            self._found[name].num_repeated_words = len(words)
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
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({type(error).__name__})") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError:
            raise DataError(f"{path}, line {number}: not JSON; write the file again") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not an object; write the file again")
        yield number, row
