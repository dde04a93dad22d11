"""The answers of a ledger as text."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from biomamba.data.ledger import LedgerComparison, Overlap, Sighting, SourceTotals
from biomamba.data.store.reader import StoredDocument
from biomamba.reporting.text import comparison, coverage, sighting_table, summary, verdict

FOUND = [
    Sighting(3, "pubmed", 0, 0, 8),
    Sighting(3, "pubmed", 0, 8, 4),
    Sighting(9, "pubmed", 1, 0, 8),
]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_coverage_tells_what_is_not_recorded() -> None:
    ledger: Any = SimpleNamespace(
        folder=Path("runs/x/ledger"),
        num_steps=1_100,
        end_step=1_200,
        gaps=[(0, 100)],
        num_unfinished_steps=7,
    )
    first, second, third = coverage(ledger).splitlines()
    assert first == "runs/x/ledger: 1,100 steps recorded, the last is step 1,199"
    assert second == "steps 0 to 99 are NOT recorded"
    assert third.startswith("7 further steps were not written by all ranks")


def test_a_summary_has_share_epochs_and_repeats() -> None:
    found = {
        "pubmed": SourceTotals(7_500, 30, {0: 1, 1: 20, 2: 9}),
        "web": SourceTotals(2_500, 9, dict.fromkeys(range(1, 10), 1)),
    }
    _, _, pubmed, web = summary(found, {"pubmed": 5_000}).splitlines()
    assert cells(pubmed) == ["pubmed", "7,500", "75.00%", "1.500", "30", "0x: 1, 1x: 20, 2x: 9"]
    assert cells(web)[2:5] == ["25.00%", "-", "9"]
    assert cells(web)[5].endswith("8x: 1, more often: 1")


def test_a_run_without_tokens_has_no_shares() -> None:
    assert "0.00%" in summary({"web": SourceTotals(0, 0, {})}, {})


def test_sightings_name_step_epoch_and_tokens() -> None:
    _, _, _, second, _ = sighting_table(FOUND).splitlines()
    assert cells(second) == ["3", "pubmed", "0", "4", "8 to 11"]


@pytest.mark.parametrize(
    ("found", "stored", "words"),
    [
        (FOUND, StoredDocument("s", "train", 14), "2 step(s), 2 time(s); 12 of 14 tokens, 20 with"),
        (FOUND, "gone", "TRAINED ON in 2 step(s), 2 time(s); 12 tokens"),
        ([], None, "not in the corpus"),
        ([], "gone", "whether it is in the corpus is not known: gone"),
        ([], StoredDocument("s", "train", 14), "not seen so far, it is in the train split of s"),
        ([], StoredDocument("s", "test", 14), "HELD OUT in the test split of s"),
    ],
)
def test_a_verdict_tells_why_a_document_was_not_met(
    found: list[Sighting], stored: StoredDocument | str | None, words: str
) -> None:
    line = verdict("pubmed", found, stored)
    assert line.startswith("pubmed: ")
    assert words in line
    assert ("not in the recorded steps" in line) == (not found)


def test_a_comparison_names_the_first_difference_and_the_longer_run() -> None:
    overlaps = {"web": Overlap(3, 1, 0)}
    same = comparison("a", "b", LedgerComparison(8, None, overlaps), last_steps=(8, 12))
    assert same.splitlines()[0] == "the 8 steps that both record are the same; b has 4 steps more"
    assert cells(same.splitlines()[-1]) == ["web", "3", "1", "0", "75.00%"]
    other = comparison("a", "b", LedgerComparison(8, 5, overlaps), last_steps=(8, 8))
    assert other.splitlines()[0] == "the first step that differs is 5"
