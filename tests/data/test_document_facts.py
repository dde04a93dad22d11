"""Facts of documents as files: nothing is lost, and damage is noticed."""

import random
from pathlib import Path

import pytest

from biomamba.data.document import (
    DocumentFacts,
    MeshTerm,
    facts_bytes,
    read_facts,
    read_years,
    year_of,
)
from biomamba.runtime.errors import DataError

AGED = MeshTerm("D000368", "Aged")
OLD_NAME = MeshTerm("D000368", "Elderly", is_major=True)
ODD = MeshTerm("", 'A "name", with * and\nbreak \u00e9', is_major=True)


def write(path: Path, facts: list[DocumentFacts | None]) -> Path:
    content = facts_bytes(facts)
    assert content is not None
    path.write_bytes(content)
    return path


def draw(seed: int, count: int) -> list[DocumentFacts | None]:
    rng = random.Random(seed)
    terms = [MeshTerm(f"D{n:06}", f"Name {n}", is_major=n % 3 == 0) for n in range(20)]
    terms += [AGED, OLD_NAME, ODD]
    return [
        DocumentFacts(rng.choice([None, 1999, 2020]), tuple(rng.choices(terms, k=rng.randrange(6))))
        if rng.random() < 0.8
        else None
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_every_document_comes_back_in_its_place(seed: int, tmp_path: Path) -> None:
    facts = draw(seed, 60)
    assert read_facts(write(tmp_path / "a.facts", facts)) == facts


def test_the_layout(tmp_path: Path) -> None:
    facts = [DocumentFacts(2016, (AGED, MeshTerm("A", "B", is_major=True))), None, DocumentFacts()]
    assert write(tmp_path / "a.facts", facts).read_text().split("\n") == [
        '{"documents": 3, "years": {"2016": 1}}',
        '[["A", "B"], ["D000368", "Aged"]]',
        "2016 1 0*",
        "",
        "-",
        "",
    ]


def test_years_are_counted_without_the_rest(tmp_path: Path) -> None:
    facts = [DocumentFacts(2016), None, DocumentFacts(), DocumentFacts(1999), DocumentFacts(2016)]
    path = write(tmp_path / "a.facts", facts)
    first = path.read_text().split("\n")[0]
    path.write_text(f"{first}\nwhatever")
    assert read_years(path) == {1999: 1, 2016: 2}


@pytest.mark.parametrize("facts", [[], [None, None]])
def test_nothing_known_is_no_file(facts: list[DocumentFacts | None]) -> None:
    assert facts_bytes(facts) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2016 1 0*\n", ""),  # a line is lost
        ("2016 1 0*", "2016 1 2"),  # a descriptor that is not there
        ("2016 1 0*", "2016 -1"),
        ("2016 1 0*", "2016 x"),
        ("2016 1 0*", "201 6x"),
        ('"documents"', '"number"'),
        ('[["A", "B"]', '[["A"]'),
        ("\n-\n", "\n-"),  # the end is cut
    ],
)
def test_damage_is_named(old: str, new: str, tmp_path: Path) -> None:
    terms = (AGED, MeshTerm("A", "B", is_major=True))
    path = write(tmp_path / "a.facts", [DocumentFacts(2016, terms), DocumentFacts(2016, terms[1:])])
    text = path.read_text().replace("2016 0*\n", "-\n")
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=r"a\.facts is no file of facts, or damaged"):
        read_facts(path)
    path.write_text("[1]")
    with pytest.raises(DataError, match="or damaged"):
        read_years(path)


@pytest.mark.parametrize(
    ("text", "year"),
    [("2003", 2003), ("1998 Dec-1999 Jan", 1998), ("Spring", None), ("12003", None), ("", None)],
)
def test_a_year_is_the_first_number_that_can_be_one(text: str, year: int | None) -> None:
    assert year_of(text) == year
