"""What generated texts repeat of notes."""

import codecs
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from biomamba.evaluation.verbatim import (
    Repeated,
    VerbatimAudit,
    VerbatimSettings,
    read_texts,
)
from biomamba.metrics.overlap import longest_shared_run, words_of
from biomamba.runtime.errors import ConfigError, DataError

SECRET = "Mr Smith of Elm Street"


def audit(texts: dict[str, str], notes: list[str], run_words: int = 4) -> dict[str, Repeated]:
    made = VerbatimAudit(texts, VerbatimSettings(run_words=run_words))
    for note in notes:
        made.add(note)
    return made.results()


def test_a_run_of_a_note_is_counted_and_hashed() -> None:
    notes = ["The patient, a man, was seen today.", "seen today at noon"]

    found = audit({"a": "he said: a man was seen today at noon"}, notes)["a"]

    # "a man was seen today" of the first note, "seen today at noon" of the second: 7 of 9 words.
    assert found == Repeated(
        num_words=9,
        num_notes=2,
        longest_run_words=5,
        longest_run_sha256=sha256(b"a man was seen today").hexdigest(),
        num_repeated_words=7,
    )


def test_a_run_across_two_notes_is_none() -> None:
    assert audit({"a": "one two three four"}, ["one two", "three four"])["a"].num_notes == 0


def test_a_shorter_run_is_not_counted() -> None:
    found = audit({"a": "one two three four"}, ["one two three", "two three four"])

    assert found["a"] == Repeated(num_words=4)


def test_the_longest_run_is_that_of_any_note_and_texts_are_independent() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        texts = {str(n): " ".join(rng.choice(list("abc"), size=12)) for n in range(3)}
        notes = [" ".join(rng.choice(list("abc"), size=20)) for _ in range(4)]

        found = audit(texts, notes)

        for name, text in texts.items():
            runs = [longest_shared_run(words_of(text), words_of(note)) for note in notes]
            longest = max(runs) if max(runs) >= 4 else 0
            assert found[name].longest_run_words == longest
            assert found[name].num_notes == sum(run >= 4 for run in runs)
            assert found[name] == audit({name: text}, notes)[name]


def plain_audit(text: str, notes: list[str], length: int) -> Repeated:
    """Compare all pairs of places, the note from its beginning."""
    words = text.split()
    found, repeated = Repeated(num_words=len(words)), set()
    for note in map(str.split, notes):
        is_shared = False
        for end in range(length, len(note) + 1):
            for start in range(len(words) - length + 1):
                if words[start : start + length] != note[end - length : end]:
                    continue
                is_shared = True
                repeated.update(range(start, start + length))
                run = length
                while run < min(start + length, end) and (
                    words[start + length - run - 1] == note[end - run - 1]
                ):
                    run += 1
                if run > found.longest_run_words:
                    shared = " ".join(note[end - run : end])
                    found.longest_run_words = run
                    found.longest_run_sha256 = sha256(shared.encode()).hexdigest()
        found.num_notes += is_shared
    found.num_repeated_words = len(repeated)
    return found


def test_counts_and_hashes_are_those_of_all_pairs_of_places() -> None:
    rng = np.random.default_rng(3)
    for letters in ("a", "ab", "abcd"):
        for _ in range(30):
            text = " ".join(rng.choice(list(letters), size=rng.integers(1, 18)))
            notes = [" ".join(rng.choice(list(letters), size=14)) for _ in range(3)]

            assert audit({"a": text}, notes)["a"] == plain_audit(text, notes, 4)


def test_a_repetitive_text_is_audited_in_one_pass() -> None:
    text = "pain denied " * 30_000  # all pairs of places would be 3.6 thousand million

    found = audit({"a": text}, [text], run_words=20)["a"]

    assert (found.longest_run_words, found.num_repeated_words) == (60_000, 60_000)


def test_texts_of_generate_and_of_predictions_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"header": {}}, {"id": 7, "text": "one"}, {"key": "k", "candidates": ["two", "three"]}]
    file.write_text("\n".join(map(json.dumps, rows)))

    assert read_texts(file) == {
        "line 2": "one",
        "line 3, candidate 1": "two",
        "line 3, candidate 2": "three",
    }


def test_files_without_texts_and_damaged_ones_are_refused_without_text(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"key": "k", "hidden": [{"sha256": "0"}]}))
    with pytest.raises(DataError, match="predictions of restricted tasks keep none"):
        read_texts(file)
    for damaged in (f'{{"text": "{SECRET}', f'["{SECRET}"]'):
        file.write_text(damaged)
        with pytest.raises(DataError, match=r"a\.jsonl, line 1") as caught:
            read_texts(file)
        assert SECRET not in str(caught.value)
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read"):
        read_texts(tmp_path / "gone.jsonl")


def test_a_file_of_texts_follows_the_rule_of_all_texts(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    row = '{"text": "one\u2028two"}'  # as it is, not escaped: no end of a row
    file.write_bytes(codecs.BOM_UTF8 + row.encode() + b"\r\n")
    assert read_texts(file) == {"line 1": "one\u2028two"}
    for raw, message in (
        (row.encode("utf-16"), "must be UTF-8 text, found UTF-16"),
        ('{"text": "\u00e9"}'.encode("latin-1"), "must be UTF-8 text, found not UTF-8 at byte 11"),
        (b'{"text": "one", "text": "two"}', "line 1: row has a key twice: 'text'"),
        (b'{"text": "\\ud83d"}', "line 1: row holds half of a surrogate pair"),
    ):
        file.write_bytes(raw)
        with pytest.raises(DataError, match=message):
            read_texts(file)


def test_a_run_of_one_word_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run_words must be .* at least 2, found 1"):
        VerbatimSettings(run_words=1)
