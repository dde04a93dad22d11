"""How well near-duplicates and benchmark texts are found in real text, and what that costs.

    python benchmarks/cleaning_quality.py --raw raw --out docs/results/cleaning_quality.json

Reads the files of the local_* corpora, the benchmarks of conf/benchmark and the NeoX tokenizer.
Deterministic but for the costs, which are CPU time of one process on one thread.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import binomtest

from biomamba.config.check import build
from biomamba.config.compose import compose_config
from biomamba.data.cleaning.benchmark_filter import ItemIndex, Rule
from biomamba.data.cleaning.near_duplicates import NearDuplicates, bands_and_rows
from biomamba.data.cleaning.ngrams import hash_ngrams, hash_texts, hash_words
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import Document
from biomamba.data.tokenizer import Tokenizer

ABSTRACTS = ("pubmed", "medline")
CORPORA = "local_pubmed,local_medline,local_c4,local_c4_prefix,local_openwebtext,local_wikipedia"
EDITS = (0.02, 0.05, 0.1, 0.2)
NUM_EDITED = 4_000
FULL_SIZE = 24_000_000
UNLIKE = 0.4  # abstracts less similar than this are not copies
NEAR = [
    NearDuplicates(threshold=threshold, num_perm=num_perm, ngram_words=ngram_words)
    for ngram_words in (2, 3, 5)
    for threshold, num_perm in ((0.5, 128), (0.6, 128), (0.7, 128), (0.7, 64), (0.8, 128))
]


def main() -> None:
    """Measure and write the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="measure these parts again, keep the others")
    arguments = parser.parse_args()
    overrides = [f"corpus=[{CORPORA}]", "benchmark=[pubmedqa,bioasq,wikitext]"]
    cfg = compose_config("prepare", [*overrides, f"paths.raw_dir={arguments.raw}"])
    corpora = {name: list(documents(build(node))) for name, node in cfg.corpora.items()}
    abstracts = [document.text for name in ABSTRACTS for document in corpora[name]]
    cleaning = build(cfg.cleaning)
    tokenizer = Tokenizer.load(f"{arguments.raw}/gpt-neox-20b-tokenizer/20B_tokenizer.json")
    results = {} if arguments.only is None else json.loads(arguments.out.read_text("utf-8"))
    parts: dict[str, Callable[[], Any]] = {
        "documents": lambda: {name: len(found) for name, found in corpora.items()},
        "near_duplicates": lambda: near_duplicates(abstracts),
        "benchmark_ngrams": lambda: benchmark_ngrams(cleaning, corpora),
        "benchmark_recall": lambda: benchmark_recall(cleaning),
        "passage_matches": lambda: passage_matches(cleaning, corpora),
        "cost": lambda: {
            name: cost(corpora[name], cleaning, tokenizer) for name in ("pubmed", "openwebtext")
        },
    }
    for name in arguments.only or parts:
        results[name] = parts[name]()
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def documents(corpus: Any) -> Iterator[Document]:
    """Iterate over all documents of a corpus."""
    for shard in corpus.shards():
        yield from (row for row in corpus.documents(shard) if isinstance(row, Document))


def batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut into batches as prepare does."""
    iterator = iter(items)
    while batch := list(islice(iterator, 512)):
        yield batch


def edited(text: str, fraction: float, words: Sequence[str], random: np.random.Generator) -> str:
    """Replace, insert after or delete each word with this probability, one third each."""
    result = []
    for word in text.split():
        other = words[random.integers(len(words))]
        choices: list[list[str]] = [[other], [word, other], []]
        result += choices[random.integers(3)] if random.random() < fraction else [word]
    return " ".join(result)


def near_duplicates(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Measure recall after edits, and the similarity of what is linked, per setting."""
    random = np.random.default_rng(0)
    chosen = random.permutation(len(texts))[:NUM_EDITED]
    vocabulary = " ".join(texts[:500]).split()
    copies = {f: [edited(texts[i], f, vocabulary, random) for i in chosen] for f in EDITS}
    sets = {n: ngram_sets(texts, n) for n in {near.ngram_words for near in NEAR}}
    pairs_of = {n: similarities(found) for n, found in sets.items()}
    results = []
    for near in NEAR:
        base = bands(near, texts)
        num_found = {
            f: int((bands(near, copies[f]) == base[chosen]).any(axis=1).sum()) for f in EDITS
        }
        linked = [jaccard(sets[near.ngram_words], *pair) for pair in equal_pairs(base)]
        num_bands, num_rows = bands_and_rows(near.threshold, near.num_perm)
        middle, counts = pairs_of[near.ngram_words]
        false_links = counts @ (1 - (1 - middle**num_rows) ** num_bands)
        scale = (FULL_SIZE / len(texts)) ** 2
        shares = {str(f): proportion(n, NUM_EDITED) for f, n in num_found.items()}
        results.append(
            near.settings()
            | {"bands": num_bands, "rows": num_rows, "found_after_edits": shares}
            | {"pairs": len(texts) * (len(texts) - 1) // 2}
            | {"similarity_of_linked": sorted(round(value, 3) for value in linked)}
            | {"expected_false_links_of_24_million": float(f"{false_links * scale:.2g}")}
        )
    return results


def bands(near: NearDuplicates, texts: Sequence[str]) -> np.ndarray:
    """Return the bands of many texts."""
    rows = []
    for batch in batches(texts):
        words = hash_words(batch)
        rows.append(near.bands(words, hash_texts(batch, words)))
    return np.concatenate(rows)


def equal_pairs(found: np.ndarray) -> set[tuple[int, int]]:
    """Return all pairs of texts that share a band."""
    pairs = set()
    for column in found.T:
        order = np.argsort(column, kind="stable")
        runs = np.split(order, np.flatnonzero(column[order[1:]] != column[order[:-1]]) + 1)
        for run in runs:
            pairs |= set(combinations(np.sort(run).tolist(), 2))
    return pairs


def ngram_sets(texts: Sequence[str], ngram_words: int) -> csr_array:
    """Return the set of n-grams of each text as a row of ones."""
    ngrams = hash_ngrams(hash_words(texts), ngram_words)
    columns = np.unique(ngrams.values, return_inverse=True)[1]
    rows = np.repeat(np.arange(len(texts)), ngrams.counts)
    sets = csr_array((np.ones(rows.size, np.int32), (rows, columns)))
    sets.sum_duplicates()
    sets.data[:] = 1
    return sets


def jaccard(sets: csr_array, first: int, second: int) -> float:
    """Return the similarity of two sets."""
    one, other = (set(sets.indices[sets.indptr[i] : sets.indptr[i + 1]]) for i in (first, second))
    return len(one & other) / len(one | other)


def similarities(sets: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Count the pairs of unlike sets by their similarity: middles of bins, and counts."""
    sizes = np.diff(sets.indptr)
    transposed = sets.T.tocsr()
    edges = np.concatenate([[0], np.geomspace(0.002, UNLIKE, 60)])
    counts = np.zeros(edges.size - 1)
    for start in range(0, sets.shape[0], 200):
        shared = (sets[start : start + 200] @ transposed).tocoo()
        first, second = shared.row + start, shared.col
        value = shared.data / (sizes[first] + sizes[second] - shared.data)
        counts += np.histogram(value[first < second], edges)[0]
    return (edges[1:] + edges[:-1]) / 2, counts


def benchmark_ngrams(
    cleaning: Cleaning, corpora: dict[str, list[Document]]
) -> list[dict[str, Any]]:
    """Count the documents that share n-grams with an item, per length and number of them."""
    items = named_items(cleaning)
    results = []
    for ngram_words in range(8, 14):
        index = ItemIndex.of(items, ngram_words, 1)
        shared = []
        for batch in batches([d for found in corpora.values() for d in found]):
            hits = index.hits(batch, hash_words([document.text for document in batch]))
            hits = hits[hits["rule"] == Rule.NGRAM]
            most = np.zeros(len(batch), np.int64)
            np.maximum.at(most, hits["document"], hits["ngrams"])
            shared.append(most)
        counts = np.concatenate(shared)
        found = {f"at_least_{least}": int((counts >= least).sum()) for least in (1, 2, 3, 5, 8)}
        results.append({"ngram_words": ngram_words, "documents": int(counts.size)} | found)
    return results


def benchmark_recall(cleaning: Cleaning) -> list[dict[str, Any]]:
    """Find edited texts of PubMedQA and BioASQ again without their PMIDs.

    By the long n-grams of items alone, and with the passages that the firewall looks for too.
    """
    items = named_items(cleaning)
    firewall = cleaning.firewall
    rule = {"passage_words": firewall.passage_words, "passage_share": firewall.passage_share}
    rules: list[tuple[int, dict[str, Any]]] = [(1, {}), (3, {}), (8, {}), (3, rule)]
    results = []
    for least, options in rules:
        index = ItemIndex.of(items, firewall.ngram_words, least, **options)
        for (benchmark, part), texts in recall_texts(items).items():
            found = {}
            for fraction in (0.0, *EDITS):
                random = np.random.default_rng(1)
                words = " ".join(text for _, text in texts[:2000]).split()
                changed = [edited(text, fraction, words, random) for _, text in texts]
                hits = index.hits([Document(t, "", "web") for t in changed], hash_words(changed))
                pairs = set(zip(hits["document"].tolist(), hits["item"].tolist(), strict=True))
                num_found = sum((n, place) in pairs for n, (place, _) in enumerate(texts))
                found[str(fraction)] = proportion(num_found, len(texts))
            results.append(
                {"min_ngrams": least, "passages": options or None, "benchmark": benchmark}
                | {"text": part, "found_after_edits": found}
            )
    return results


def recall_texts(
    items: Sequence[tuple[str, Any]],
) -> dict[tuple[str, str], list[tuple[int, str]]]:
    """Return the texts to find again by benchmark and part, each with the place of its item."""
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for place, (benchmark, item) in enumerate(items):
        parts: dict[str, Sequence[str]] = {}
        if benchmark == "pubmedqa":
            parts = {"abstract": [" ".join(item.texts[1:])], "long answer": item.texts[-1:]}
        if benchmark in ("pubmedqa", "bioasq"):
            parts["question"] = item.texts[:1]
        if benchmark == "bioasq":
            parts["snippet or answer"] = item.texts[1:]
        for part, texts in parts.items():
            found.setdefault((benchmark, part), []).extend((place, text) for text in texts)
    random = np.random.default_rng(2)
    return {
        key: [texts[n] for n in sorted(random.permutation(len(texts))[:1_000])]
        for key, texts in found.items()
    }


def passage_matches(cleaning: Cleaning, corpora: dict[str, list[Document]]) -> dict[str, Any]:
    """Count the documents that only a passage leaves out, per corpus, with what they match."""
    items, firewall = named_items(cleaning), cleaning.firewall
    index = firewall.index
    counts, matches = {}, []
    for name, found in corpora.items():
        num_documents = 0
        for batch in batches(found):
            hits = index.hits(batch, hash_words([document.text for document in batch]))
            others = set(hits["document"][hits["rule"] != Rule.PASSAGE].tolist())
            for document in sorted({*hits["document"].tolist()} - others):
                num_documents += 1
                own = hits[hits["document"] == document]
                matches.append(
                    {"document": batch[document].id, "corpus": name}
                    | {"items": [list(index.names[n]) for n in own["item"].tolist()]}
                )
        counts[name] = {"documents": len(found), "left_out": num_documents}
    return {"rule": firewall.settings() | {"benchmarks": len(items)}, "corpora": counts} | {
        "matches": matches
    }


def named_items(cleaning: Cleaning) -> list[tuple[str, Any]]:
    """Return the items of all benchmarks, with the names of these."""
    found = sorted(cleaning.firewall.benchmarks.items())
    return [(name, item) for name, benchmark in found for item in benchmark.items()]


def cost(found: list[Document], cleaning: Cleaning, tokenizer: Tokenizer) -> dict[str, float]:
    """Return microseconds per document for the marks and for tokenizing, and their ratio."""
    chosen = found[:4_096]
    cleaning.marks(chosen[:512])
    seconds = {"marks": 0.0, "tokenise": 0.0}
    for batch in batches(chosen):
        start = time.process_time()
        cleaning.marks(batch)
        between = time.process_time()
        tokenizer.encode_batch([document.text for document in batch])
        seconds["marks"] += between - start
        seconds["tokenise"] += time.process_time() - between
    microseconds = {name: round(value / len(chosen) * 1e6) for name, value in seconds.items()}
    return microseconds | {"ratio": round(seconds["marks"] / seconds["tokenise"], 3)}


def proportion(count: int, total: int) -> dict[str, Any]:
    """Return a share with its 95 % interval (Wilson)."""
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return {
        "share": round(count / total, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "of": total,
    }


if __name__ == "__main__":
    main()
