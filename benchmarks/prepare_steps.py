"""One step of the prepare stage in a process of its own; prepare_speed.py starts this.

    python prepare_steps.py --cores 2 encode <folder>
    python prepare_steps.py --cores 2 prepare <folder> <new folder for the stores>
    python prepare_steps.py --cores 1 parse <file.xml[.gz]>

The process may use so many cores and as many workers. The last line printed is JSON.
"""

import argparse
import gzip
import json
import os
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import iterparse

import documents
from measurement import measure

from biomamba.data.cleaning.benchmark_filter import Firewall
from biomamba.data.cleaning.benchmarks import (
    Benchmark,
    BioASQ,
    PubMedQA,
    TextColumns,
    WikiTextArticles,
)
from biomamba.data.cleaning.near_duplicates import NearDuplicates
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.medline import MedlineCorpus
from biomamba.data.corpora.pubmed_xml import elements
from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.nlm_download import LocalFiles
from biomamba.data.prepare import pipeline as preparation
from biomamba.data.prepare.pipeline import Job, prepare
from biomamba.data.prepare.staging import STAGING_NAME
from biomamba.data.rows import LocalRows, RawShard
from biomamba.data.store.format import Totals
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import Pretrained, Tokenizer

_BATCH = 512  # as the prepare stage


def benchmarks(folder: Path) -> Mapping[str, Benchmark]:
    """Return the benchmarks to keep out: real ones, or sentences of the generator."""
    real = documents.real_data()
    if real is not None:
        return {
            "pubmedqa": PubMedQA(str(real / "pubmedqa" / "ori_pqal.json")),
            "bioasq": BioASQ([str(real / "bioasq-12b-golden" / "*.json")]),
            "wikitext": WikiTextArticles(
                [str(real / "wikitext-2-raw" / f"{name}.jsonl") for name in ("validation", "test")]
            ),
        }
    return {"texts": TextColumns([str(folder / "benchmark.jsonl")], ["text"])}


def encode(folder: Path) -> dict[str, Any]:
    """Tokenize all texts, read beforehand, in batches."""
    texts = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            texts += [json.loads(line)["text"] for line in file]
    tokenizer = Tokenizer.load(str(folder / "tokenizer.json"))

    def work() -> float:
        for begin in range(0, len(texts), _BATCH):
            tokenizer.encode_batch(texts[begin : begin + _BATCH])
        return len(texts)

    tokenizer.encode_batch(texts[:_BATCH])
    return vars(measure(work))


def prepare_stores(folder: Path, target: Path, num_workers: int) -> dict[str, Any]:
    """Stage, decide and finish with exact duplicates, near-duplicates and benchmarks looked for."""
    corpora = {
        name: ColumnCorpus(
            rows=LocalRows([str(folder / f"{name}-*.jsonl.gz")]),
            domain=name,
            licence="none",
            text_columns=["text"],
            id_column="id",
        )
        for name in documents.DOMAINS
    }
    cleaning = Cleaning(near_duplicates=NearDuplicates(), firewall=Firewall(benchmarks(folder)))
    phases: dict[str, Any] = {}

    def work() -> float:
        manifests = prepare(
            target,
            corpora,
            Pretrained(str(folder / "tokenizer.json")),
            StorePolicy(val_permille=5, test_permille=5),
            cleaning,
            Job(num_workers=num_workers),
        )
        own = {name: sum(each.totals.values(), Totals()) for name, each in manifests.items()}
        phases["tokens_per_pubmed_document"] = own["pubmed"].tokens / own["pubmed"].documents
        phases["num_tokens"] = sum(totals.tokens for totals in own.values())
        return sum(totals.documents for totals in own.values())

    with _timed(phases, "stage", target), _timed(phases, "decide"), _timed(phases, "finish"):
        sample = measure(work)
    kept = sum(_size(folder) for folder in target.glob(f"*/{STAGING_NAME}"))
    return vars(sample) | phases | {"kept_bytes": kept, "final_bytes": _size(target) - kept}


def parse(path: Path) -> dict[str, Any]:
    """Parse a file by several means; amounts are records."""
    corpus = MedlineCorpus(LocalFiles([str(path)]), "none")

    def standard() -> float:
        num_records = 0
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for _, element in iterparse(file):
                if element.tag == "PubmedArticle":
                    num_records += 1
                    element.clear()
        return num_records

    shards: list[RawShard] = []

    def first_pass() -> float:
        shards.extend(corpus.shards())
        return len(shards)

    found: dict[str, Any] = {
        "elements": vars(measure(lambda: sum(1 for _ in elements(path)))),
        "first_pass": vars(measure(first_pass)),
        "documents": vars(measure(lambda: sum(1 for _ in corpus.documents(shards[0])))),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    found["iterparse"] = vars(measure(standard))  # last: it keeps the emptied records
    return found


@contextmanager
def _timed(phases: dict[str, Any], name: str, target: Path | None = None) -> Iterator[None]:
    """Note the seconds of a phase; measure the staging while it is in the target."""
    function = {"stage": "stage_stores", "decide": "decide", "finish": "finish_stores"}[name]
    original = getattr(preparation, function)

    def timed(*arguments: Any, **keywords: Any) -> Any:
        begin = time.perf_counter()
        result = original(*arguments, **keywords)
        phases[f"{name}_seconds"] = time.perf_counter() - begin
        if target is not None:
            phases["staged_bytes"] = _size(target)
        return result

    setattr(preparation, function, timed)
    try:
        yield
    finally:
        setattr(preparation, function, original)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("step", choices=["encode", "prepare", "parse"])
    parser.add_argument("paths", type=Path, nargs="+")
    asked = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.cores])
    if asked.step == "encode":
        result = encode(asked.paths[0])
    elif asked.step == "prepare":
        result = prepare_stores(asked.paths[0], asked.paths[1], asked.cores)
    else:
        result = parse(asked.paths[0])
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
