"""How fast raw text becomes token stores, and what all of PubMed would take.

    python benchmarks/prepare_speed.py

The prepare stage is compared with the tokenizer alone on the same texts and cores, the XML parser
with that of the standard library on the same file, memory with that for a file a tenth as large.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import documents
import pubmed_files
from engine import WEIGHTS
from measurement import Sample, in_turn, print_table, spread, text_of, write_result
from synthetic_stores import MEAN_TOKENS

_FILES_PER_SOURCE = 2
_NUM_FEW = 40  # documents of a run that measures the start alone
# Assumptions about all of PubMed; everything else in the extrapolation is measured here.
CITATIONS = 36e6
ABSTRACT_SHARE = 0.7  # of the citations


def write_raw(folder: Path, num_documents: int) -> float:
    """Write raw files in the proportions of the mixture and return the megabytes of their texts."""
    folder.mkdir()
    documents.tokenizer().save(folder / "tokenizer.json")
    num_bytes = 0
    for name, weight in WEIGHTS.items():
        share = weight / MEAN_TOKENS[name] * MEAN_TOKENS["pubmed"]
        rows = [
            {"id": f"{name}-{number}", "text": text}
            for number, text in enumerate(documents.texts(name, round(num_documents * share)))
        ]
        num_bytes += sum(len(row["text"].encode()) for row in rows)
        for part in range(_FILES_PER_SOURCE):
            with gzip.open(folder / f"{name}-{part}.jsonl.gz", "wt", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows[part::_FILES_PER_SOURCE])
    benchmark = [{"text": text} for text in documents.texts("pubmed", 500, seed=1)]
    (folder / "benchmark.jsonl").write_text("".join(json.dumps(row) + "\n" for row in benchmark))
    return num_bytes / 1e6


def against_tokenizer(folder: Path, num_documents: int, repeats: int) -> dict[str, Any]:
    """Measure the prepare stage and the tokenizer in turn, on one core and on two."""
    few, many = folder / "few", folder / "many"
    write_raw(few, _NUM_FEW)
    megabytes = write_raw(many, num_documents)
    details: dict[int, dict[str, Any]] = {}

    def stores(num_cores: int) -> Sample:
        with tempfile.TemporaryDirectory(dir=folder) as target:
            start = _step(num_cores, "prepare", few, Path(target) / "few")
            whole = _step(num_cores, "prepare", many, Path(target) / "many")
        # The start of the processes and the files of the set itself are no part of the rates.
        keys = (
            "amount",
            "cpu_seconds",
            "wall_seconds",
            "num_tokens",
            "staged_bytes",
            "final_bytes",
        )
        details[num_cores] = whole | {key: whole[key] - start[key] for key in keys}
        details[num_cores]["start_seconds"] = start["wall_seconds"]
        return _sample(details[num_cores])

    cores = range(1, min(2, os.cpu_count() or 1) + 1)
    alone = {f"tokenizer, {n} cores": partial(_encode, n, many) for n in cores}
    samples = in_turn(alone | {f"prepare, {n} cores": partial(stores, n) for n in cores}, repeats)
    results: dict[str, Any] = {"megabytes": megabytes, "details": details}
    rows = []
    for n in cores:
        bare, own = samples[f"tokenizer, {n} cores"], samples[f"prepare, {n} cores"]
        pairs = list(zip(own, bare, strict=True))
        results[f"{n} cores"] = found = {
            "tokenizer_documents_per_second": spread([each.per_wall_second for each in bare]),
            "prepare_documents_per_second": spread([each.per_wall_second for each in own]),
            "ratio": spread([a.per_wall_second / b.per_wall_second for a, b in pairs]),
            "cpu_ratio": spread([a.per_cpu_second / b.per_cpu_second for a, b in pairs]),
        }
        rows.append([str(n), *(text_of(values) for values in found.values())])
    print_table(
        "Prepare against its tokenizer (bar: ratio 0.85)",
        ["cores", "tokenizer, documents/s", "prepare, documents/s", "ratio", "ratio by CPU"],
        rows,
    )
    return results


def xml_parser(folder: Path, megabytes: int, repeats: int) -> dict[str, Any]:
    """Measure parsing on one core by size of the file, and the memory it takes."""
    sizes = {
        f"{megabytes} MB": folder / "small.xml",
        f"{10 * megabytes} MB": folder / "large.xml",
        f"{10 * megabytes} MB, compressed": folder / "large.xml.gz",
    }
    results: dict[str, Any] = {}
    rows = []
    for name, path in sizes.items():
        size = megabytes if path.stem == "small" else 10 * megabytes
        num_records = pubmed_files.write_file(path, size)
        runs = [_step(1, "parse", path) for _ in range(repeats)]
        path_bytes = path.stat().st_size
        path.unlink()
        rates = {
            kind: spread([size / run[kind]["cpu_seconds"] for run in runs])
            for kind in ("iterparse", "elements", "first_pass", "documents")
        }
        peak = spread([run["peak_megabytes"] for run in runs])
        results[name] = {
            "records": num_records,
            "file_bytes": path_bytes,
            "megabytes_per_cpu_second": rates,
            "peak_megabytes": peak,
        }
        rows.append([name, *(text_of(rate, 0) for rate in rates.values()), text_of(peak, 0)])
    print_table(
        "PubMed XML on one core, MB of XML per CPU second (bar: elements 41), peak memory in MB",
        ["file", "iterparse", "elements", "first pass", "documents", "peak memory"],
        rows,
    )
    return results


def all_of_pubmed(prepared: dict[str, Any], parsed: dict[str, Any]) -> dict[str, Any]:
    """Extrapolate to all citations from the rates above."""
    name, file = list(parsed.items())[-1]
    per_citation = file["file_bytes"] / file["records"]
    xml_megabytes = float(name.split(" ", maxsplit=1)[0]) / file["records"]
    run = prepared["details"][1]
    tokens = run["tokens_per_pubmed_document"]
    kept = CITATIONS * ABSTRACT_SHARE
    beside_tokens = {
        "staged": (run["staged_bytes"] - 2 * run["num_tokens"]) / run["amount"],
        "final": (run["final_bytes"] - 2 * run["num_tokens"]) / run["amount"],
    }
    parsing = {
        kind: CITATIONS * xml_megabytes / file["megabytes_per_cpu_second"][kind]["median"] / 3_600
        for kind in ("first_pass", "documents")
    }
    preparing = kept * tokens * run["cpu_seconds"] / run["num_tokens"] / 3_600
    results = {
        "assumed": {
            "citations": CITATIONS,
            "share_with_abstract": ABSTRACT_SHARE,
            "bytes_of_a_compressed_citation": per_citation,
            "bytes_of_xml_of_a_citation": xml_megabytes * 1e6,
            "tokens_of_a_document": tokens,
            "decide_grows_with_the_documents": True,
        },
        "cpu_hours": parsing | {"prepare": preparing, "all": sum(parsing.values()) + preparing},
        "gigabytes": {
            "raw": CITATIONS * per_citation / 1e9,
            "staged, at most": kept * (2 * tokens + beside_tokens["staged"]) / 1e9,
            "staging that stays": kept * run["kept_bytes"] / run["amount"] / 1e9,
            "stores": kept * (2 * tokens + beside_tokens["final"]) / 1e9,
        },
    }
    for title, figures in results.items():
        print(f"all of PubMed, {title}:")
        for key, value in figures.items():
            print(f"    {key.replace('_', ' ')}: {value:,.6g}")
    return results


def _step(num_cores: int, step: str, *paths: Path) -> dict[str, Any]:
    """Run one step in a process of its own."""
    script = Path(__file__).with_name("prepare_steps.py")
    environment = os.environ | {
        "RAYON_NUM_THREADS": str(num_cores),
        "TOKENIZERS_PARALLELISM": "true" if num_cores > 1 else "false",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(script), "--cores", str(num_cores), step, *map(str, paths)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{step} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _encode(num_cores: int, folder: Path) -> Sample:
    return _sample(_step(num_cores, "encode", folder))


def _sample(found: dict[str, Any]) -> Sample:
    return Sample(found["amount"], found["cpu_seconds"], found["wall_seconds"])


def main() -> None:
    """Run all parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=16_000)
    parser.add_argument("--megabytes", type=int, default=15, help="of XML; and ten times as many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepared = against_tokenizer(folder, asked.documents, asked.repeats)
        parsed = xml_parser(folder, asked.megabytes, asked.repeats)
    results = {"texts": documents.kind(), "prepare": prepared, "xml": parsed}
    if documents.real_data() is None:
        print("no figures for all of PubMed: the texts and records were generated")
    else:
        results["pubmed"] = all_of_pubmed(prepared, parsed)
    write_result("prepare_speed", results, asked.output)


if __name__ == "__main__":
    main()
