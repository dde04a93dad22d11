"""Decide over a whole set which documents stay and which split each belongs to.

The verdicts do not depend on the order or the number of the raw files: where one of several
documents stays, the corpora in the order of the set and then the key of the document choose it.
Only among rows of one id within a corpus the first one stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from biomamba.data.cleaning.firewall import Hits
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.cleaning.words import Hashes
from biomamba.data.document import SplitRule


class Verdict(IntEnum):
    """What becomes of a document."""

    KEPT = 0
    DUPLICATE_ID = 1
    DUPLICATE_TEXT = 2
    NEAR_DUPLICATE = 3
    BENCHMARK = 4

    @property
    def reason(self) -> str:
        """The words under which the document is counted."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class ShardTable:
    """The marks of one shard, one entry per document in raw order.

    Attributes:
        corpus: Name of the corpus.
        domain: Its domain; ids are compared within a domain.
        key: Hash of the id.
        group: Hash of the group, or of the id of a document without one.
        text: Hash of the normalised words.
        bands: `(documents, bands)`; may be a memory map.
        hits: HIT_DTYPE; `document` is the place in the shard.
    """

    corpus: str
    domain: str
    key: Hashes
    group: Hashes
    text: Hashes
    bands: Hashes
    hits: Hits


@dataclass(frozen=True)
class Decision:
    """What becomes of the documents of one shard.

    Attributes:
        verdict: Verdict of each document, uint8.
        split: Place in SPLITS of each document, uint8; of no meaning for those left out.
    """

    verdict: NDArray[np.uint8]
    split: NDArray[np.uint8]


def decide(tables: Sequence[ShardTable], cleaning: Cleaning, rule: SplitRule) -> list[Decision]:
    """Decide over all documents of a set.

    Args:
        tables: All shards, the corpora in the order of the set.
        cleaning: What is left out.
        rule: The split of a group key.
    """
    seen: set[tuple[str, int]] = set()
    decisions = []
    for table in tables:
        verdict = np.zeros(table.key.size, np.uint8)
        for number, key in enumerate(table.key.tolist()):
            if (table.domain, key) in seen:
                verdict[number] = Verdict.DUPLICATE_ID
            seen.add((table.domain, key))
        decisions.append(Decision(verdict, rule.indices(table.group).astype(np.uint8)))
    return decisions
