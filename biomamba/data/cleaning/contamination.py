"""The record of what cleaning found: counts, ids and hashes, never text."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from biomamba.data.cleaning.benchmark_filter import ItemIndex, Rule
from biomamba.data.cleaning.decisions import Decision, ShardTable, Verdict
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import SplitRule

_MAX_ITEMS = 5
# What the rules below find of texts without their PMIDs, by benchmark, part and number of texts:
# share and its 95 % interval (Wilson) by the share of their words that were changed before. From
# docs/results/cleaning_quality.json; benchmarks/cleaning_quality.py measures it.
MEASURED_RULES: Mapping[str, Any] = {
    "ngram_words": 13,
    "min_ngrams": 3,
    "passage_words": 5,
    "passage_share": 0.4,
}
MEASURED_RECALL: Mapping[tuple[str, str, int], Mapping[float, tuple[float, float, float]]] = {
    ("bioasq", "question", 170): {
        0.0: (0.7706, 0.7018, 0.8274),
        0.1: (0.4294, 0.3574, 0.5046),
        0.2: (0.2765, 0.2147, 0.3481),
    },
    ("bioasq", "snippet or answer", 1_000): {
        0.0: (0.988, 0.9791, 0.9931),
        0.1: (0.84, 0.816, 0.8614),
        0.2: (0.473, 0.4422, 0.504),
    },
    ("pubmedqa", "abstract", 1_000): {
        0.0: (1.0, 0.9962, 1.0),
        0.1: (1.0, 0.9962, 1.0),
        0.2: (0.951, 0.9358, 0.9627),
    },
    ("pubmedqa", "long answer", 1_000): {
        0.0: (1.0, 0.9962, 1.0),
        0.1: (0.894, 0.8734, 0.9116),
        0.2: (0.454, 0.4234, 0.485),
    },
    ("pubmedqa", "question", 1_000): {
        0.0: (0.972, 0.9598, 0.9806),
        0.1: (0.649, 0.6189, 0.678),
        0.2: (0.353, 0.324, 0.3831),
    },
}
Pair = tuple[ShardTable, Decision]


def contamination_report(
    tables: Sequence[ShardTable],
    decisions: Sequence[Decision],
    cleaning: Cleaning,
    rule: SplitRule,
) -> dict[str, Any]:
    """Return the content of contamination.json.

    Args:
        tables: All shards of the set.
        decisions: What became of their documents.
        cleaning: What was left out.
        rule: The split of a group key.
    """
    pairs = list(zip(tables, decisions, strict=True))
    index = cleaning.firewall.index
    matches = list(_matches(tables, index))
    return {
        "settings": {**cleaning.settings(), "split": asdict(rule)},
        "is_firewall_on": bool(cleaning.firewall.benchmarks),
        "measured_recall": _recall(cleaning),
        "corpora": {name: _corpus(name, pairs) for name in dict.fromkeys(t.corpus for t in tables)},
        "near_duplicates": _clusters(pairs, rule),
        "benchmarks": {name: _benchmark(name, matches, index) for name in index.benchmarks},
        "documents": [match.record(index) for match in matches],
    }


def _recall(cleaning: Cleaning) -> list[dict[str, Any]] | None:
    """Return what such a filter is known to find of edited texts; None under other rules."""
    rules = {name: getattr(cleaning.firewall, name) for name in MEASURED_RULES}
    if not cleaning.firewall.benchmarks or rules != MEASURED_RULES:
        return None
    return [
        {"benchmark": benchmark, "text": text, "n": n}
        | {
            "found_after_edits": {
                str(share): dict(zip(("share", "low", "high"), values, strict=True))
                for share, values in found.items()
            }
        }
        for (benchmark, text, n), found in MEASURED_RECALL.items()
    ]


def findings(report: dict[str, Any]) -> list[str]:
    """Return what a user should read of a report, a line each."""
    near = report["near_duplicates"]
    lines = [
        f"{near['documents']:,} documents in {near['clusters']:,} clusters of near-duplicates, "
        f"the largest of {near['largest']:,}; "
        f"{near['moved_to_the_split_of_their_cluster']:,} documents changed split for their sake"
    ]
    for name, benchmark in report["benchmarks"].items():
        num_documents = sum(counts["any rule"] for counts in benchmark["documents"].values())
        lines.append(
            f"benchmark {name}: {benchmark['items_found']:,} of {benchmark['items']:,} items "
            f"found; documents left out for it: {num_documents:,}"
        )
    for row in report.get("measured_recall") or []:
        if row["benchmark"] in report["benchmarks"]:
            found = row["found_after_edits"]
            shares = ", ".join(f"{found[edits]['share']:.0%}" for edits in ("0.0", "0.2"))
            lines.append(
                f"measured on {row['n']:,} texts of {row['benchmark']} ({row['text']}) without "
                f"PMIDs: found unchanged and with 20 % of the words changed: {shares}"
            )
    return lines


@dataclass(frozen=True)
class _Match:
    """One document and the items of one benchmark that were found in it.

    Attributes:
        corpus: Name of the corpus.
        key: Hash of the id of the document.
        benchmark: Name of the benchmark.
        rules: Rules that applied, in order.
        items: Places of the items in the index, those with most n-grams first.
        ngrams: Distinct n-grams shared with the first of them.
    """

    corpus: str
    key: int
    benchmark: str
    rules: tuple[Rule, ...]
    items: tuple[int, ...]
    ngrams: int

    def record(self, index: ItemIndex) -> dict[str, Any]:
        """Return the entry of the list of documents."""
        return {
            "corpus": self.corpus,
            "key": f"{self.key:016x}",
            "pmid": index.pmid_of.get(self.key) if Rule.PMID in self.rules else None,
            "benchmark": self.benchmark,
            "rules": [rule.name.lower() for rule in self.rules],
            "num_items": len(self.items),
            "items": [index.names[item][1] for item in self.items[:_MAX_ITEMS]],
            "ngrams": self.ngrams,
        }


def _matches(tables: Sequence[ShardTable], index: ItemIndex) -> Iterator[_Match]:
    for table in tables:
        found: dict[tuple[int, str], list[Any]] = {}
        for hit in table.hits:
            benchmark = index.names[hit["item"]][0]
            found.setdefault((int(hit["document"]), benchmark), []).append(hit)
        for (document, benchmark), hits in sorted(found.items()):
            hits.sort(key=lambda hit: (-int(hit["ngrams"]), int(hit["item"])))
            yield _Match(
                table.corpus,
                int(table.key[document]),
                benchmark,
                tuple(sorted({Rule(hit["rule"]) for hit in hits})),
                tuple(dict.fromkeys(int(hit["item"]) for hit in hits)),
                int(hits[0]["ngrams"]),
            )


def _corpus(name: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    verdicts = np.concatenate([d.verdict for table, d in pairs if table.corpus == name])
    counts = np.bincount(verdicts, minlength=len(Verdict))
    return {
        "documents": int(verdicts.size),
        "kept": int(counts[Verdict.KEPT]),
        "removed": {v.reason: int(counts[v]) for v in Verdict if v != Verdict.KEPT},
    }


def _clusters(pairs: Sequence[Pair], rule: SplitRule) -> dict[str, int]:
    sizes = np.bincount(np.concatenate([d.cluster for _, d in pairs] or [np.zeros(0, np.int64)]))
    moved = sum(
        np.count_nonzero((d.verdict == Verdict.KEPT) & (d.split != rule.indices(table.group)))
        for table, d in pairs
    )
    return {
        "clusters": max(sizes.size - 1, 0),
        "documents": int(sizes[1:].sum()),
        "largest": int(sizes[1:].max(initial=0)),
        "moved_to_the_split_of_their_cluster": int(moved),
    }


def _benchmark(name: str, matches: Sequence[_Match], index: ItemIndex) -> dict[str, Any]:
    items = [place for place, (benchmark, _) in enumerate(index.names) if benchmark == name]
    own = [match for match in matches if match.benchmark == name]
    by_rule = Counter((match.corpus, rule.name.lower()) for match in own for rule in match.rules)
    any_rule = Counter(match.corpus for match in own)
    return {
        "items": len(items),
        "items_too_short_for_ngrams": int(np.count_nonzero(index.needed[items] == 0)),
        "links_without_pmid": int(index.unknown_links[items].sum()),
        "items_found": len({item for match in own for item in match.items}),
        "documents": {
            corpus: {"any rule": any_rule[corpus]}
            | {rule: count for (c, rule), count in sorted(by_rule.items()) if c == corpus}
            for corpus in sorted(any_rule)
        },
    }
