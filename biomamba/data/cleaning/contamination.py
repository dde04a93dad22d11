"""The record of what cleaning found: counts, ids and hashes, never text."""

from collections.abc import Sequence
from typing import Any

from biomamba.data.cleaning.decisions import Decision, ShardTable
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import SplitRule


def contamination_report(
    tables: Sequence[ShardTable],
    decisions: Sequence[Decision],
    cleaning: Cleaning,
    rule: SplitRule,
) -> dict[str, Any]:
    """Return the content of contamination.json.

    Args:
        tables: All shards of the set.
        decisions: What became of them.
        cleaning: What was left out.
        rule: The split of a group key.
    """
    return {"settings": cleaning.settings()}
