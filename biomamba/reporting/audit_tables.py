"""Audits as Markdown tables: counts only."""

from collections.abc import Mapping

from biomamba.evaluation.leakage import SplitLeakage
from biomamba.evaluation.verbatim import Repeated
from biomamba.reporting.tables import markdown_table


def leakage_table(task: str, found: Mapping[str, SplitLeakage]) -> str:
    """Return a line per split and withheld text, and one per split for all of its items.

    Then, where there are any, the prompts that have the words of a withheld heading.
    """
    header = ["task, split, text", "items", "too short", "whole in prompt", "runs in prompt"]
    header += ["words in prompt", "prompts in train", "targets in train"]
    rows = []
    for split, leakage in found.items():
        known = [leakage.num_prompts_in_train, leakage.num_targets_in_train]
        in_train = ["", ""] if split == "train" else [f"{number:,}" for number in known]
        total = [f"{leakage.num_items:,}", "", "", _share(leakage.num_leaking, leakage.num_items)]
        rows.append([f"{task} {split}: any", *total, "", *in_train])
        for name, each in leakage.texts.items():
            told = each.num_texts - each.num_short
            counts = [f"{each.num_texts:,}", f"{each.num_short:,}", f"{each.num_whole:,}"]
            shares = [
                _share(each.num_with_runs, told),
                _share(each.num_leaked_words, each.num_words),
            ]
            rows.append([f"{task} {split}: {name}", *counts, *shares, "", ""])
        for name, count in {"any": leakage.num_with_headings, **leakage.headings}.items():
            if leakage.headings:
                label = f"{task} {split}: words of the heading {name}"
                share = _share(count, leakage.num_items)
                rows.append([label, f"{leakage.num_items:,}", "", "", share, "", "", ""])
    return markdown_table(header, rows)


def verbatim_table(found: Mapping[str, Repeated], num_notes: int) -> str:
    """Return how many texts repeat how much."""
    repeating = [each for each in found.values() if each.longest_run_words]
    num_words = sum(each.num_words for each in found.values())
    num_repeated = sum(each.num_repeated_words for each in found.values())
    longest = max((each.longest_run_words for each in repeating), default=0)
    rows = [
        ["notes compared with", f"{num_notes:,}"],
        ["texts", f"{len(found):,}"],
        ["texts that repeat a note", _share(len(repeating), len(found))],
        ["words in repeated runs", _share(num_repeated, num_words)],
        ["words of the longest run", f"{longest:,}"],
    ]
    return markdown_table(["verbatim", "count"], rows)


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})" if of else f"{count:,}"
