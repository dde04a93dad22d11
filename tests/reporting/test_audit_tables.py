"""Audits as tables."""

from biomamba.evaluation.leakage import SplitLeakage, TextLeaks
from biomamba.evaluation.verbatim import Repeated
from biomamba.reporting.tables import leakage_table, verbatim_table


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_shares_of_leaks_are_of_the_texts_that_tell() -> None:
    texts = {
        "course": TextLeaks(
            num_texts=10,
            num_short=2,
            num_whole=1,
            num_with_runs=4,
            num_words=50,
            num_leaked_words=5,
        )
    }
    found = {
        "test": SplitLeakage(
            num_items=10,
            num_leaking=4,
            texts=texts,
            num_prompts_in_train=3,
            num_targets_in_train=1,
        )
    }

    lines = leakage_table("notes", found).splitlines()

    assert cells(lines[2]) == ["notes test: any", "10", "", "", "4 (40.0%)", "", "3", "1"]
    course = ["notes test: course", "10", "2", "1", "4 (50.0%)", "5 (10.0%)", "", ""]
    assert cells(lines[3]) == course


def test_training_items_are_not_compared_with_themselves() -> None:
    line = leakage_table("notes", {"train": SplitLeakage()}).splitlines()[2]

    assert cells(line) == ["notes train: any", "0", "", "", "0", "", "", ""]


def test_what_texts_repeat_is_summed() -> None:
    found = {
        "a": Repeated(num_words=30, num_notes=2, longest_run_words=9, num_repeated_words=10),
        "b": Repeated(num_words=10),
    }

    lines = [cells(line) for line in verbatim_table(found, 1_234).splitlines()[2:]]

    assert lines == [
        ["notes compared with", "1,234"],
        ["texts", "2"],
        ["texts that repeat a note", "1 (50.0%)"],
        ["words in repeated runs", "10 (25.0%)"],
        ["words of the longest run", "9"],
    ]
