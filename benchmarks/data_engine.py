"""How fast training rows are read, mixed and packed from token stores.

    python benchmarks/data_engine.py [--with-venv mosaicml=<folder> --with-venv litdata=<folder>]

Four questions: does the rate depend on the size of the corpus; does the first batch of a resumed
run come later; where does the time go; how does it compare with other ways to the same batches.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

import datasets_pipeline
import documents
import numpy as np
import torch
from measurement import (
    Sample,
    in_turn,
    measure,
    print_table,
    spread,
    text_of,
    write_result,
)
from synthetic_stores import MEAN_TOKENS, encoded_shards, random_shards, write_store

from biomamba.data import batches, training_rows
from biomamba.data.budget import TokenBudget
from biomamba.data.datamodule import PretrainDataModule
from biomamba.data.mixed_rows import MixedRows
from biomamba.data.mixture import Mixture
from biomamba.data.packing import BestFit
from biomamba.data.training_rows import TrainingSteps

WEIGHTS = {"pubmed": 0.8, "web": 0.1, "wikipedia": 0.1}
SEQ_LEN = 1_024
ROWS_PER_STEP = 256
MICRO_BATCH_SIZE = 8
NUM_STEPS = 60_000  # 15 M samples, so that sample 10 M lies within the run
SAMPLES = (0, 10_000_000)
MILLION = 1e6


def datamodule(root: Path, num_workers: int = 0) -> PretrainDataModule:
    """Return the data of a long run over the stores in a folder."""
    tokens_per_step = ROWS_PER_STEP * SEQ_LEN
    return PretrainDataModule(
        sources={name: [str(root / name)] for name in WEIGHTS},
        mixture=Mixture(WEIGHTS),
        packing=BestFit(),
        budget=TokenBudget(
            max_tokens=NUM_STEPS * tokens_per_step,
            tokens_per_step=tokens_per_step,
            seq_len=SEQ_LEN,
            micro_batch_size=MICRO_BATCH_SIZE,
        ),
        seed=0,
        num_workers=num_workers,
        verify="size",
    )


def million_tokens(items: Iterator[list[batches.Batch]], num_steps: int) -> float:
    """Take steps and count their tokens without padding."""
    total = 0
    for _ in range(num_steps):
        total += sum(int(batch.pieces["tokens"].sum()) for batch in next(items))
    return total / MILLION


def by_corpus_size(folder: Path, sizes: list[int], repeats: int) -> dict[str, Any]:
    """Measure opening and reading for corpora of several sizes."""
    opening: dict[str, list[float]] = {}
    streams: dict[str, Iterator[list[batches.Batch]]] = {}
    for size in sizes:
        root, name = folder / f"{size}", f"{size:,}"
        for source, weight in WEIGHTS.items():
            write_store(root / source, random_shards(source, round(size * weight), seed=0))
        opening[name] = [measure(partial(_open, root)).cpu_seconds for _ in range(repeats)]
        steps = _steps(root)
        streams[name] = (steps[number % NUM_STEPS] for number in range(10**9))
        next(streams[name])
    reading = in_turn(
        {name: partial(million_tokens, items, 40) for name, items in streams.items()}, repeats
    )
    results = {
        name: {
            "opening_cpu_seconds": spread(opening[name]),
            "million_tokens_per_cpu_second": spread([s.per_cpu_second for s in reading[name]]),
        }
        for name in streams
    }
    print_table(
        f"Reading, mixing and packing, one thread, seq_len {SEQ_LEN}, 3 sources",
        ["tokens in the corpus", "M tokens per CPU second", "opening, CPU seconds"],
        [
            [
                name,
                text_of(result["million_tokens_per_cpu_second"], 1),
                text_of(result["opening_cpu_seconds"]),
            ]
            for name, result in results.items()
        ],
    )
    return results


def first_batch(root: Path, repeats: int) -> dict[str, Any]:
    """Measure the first step at the start of a run and far into it, opening excluded and not."""
    cases: dict[str, Callable[[], float]] = {}
    waits: dict[int, list[float]] = {sample: [] for sample in SAMPLES}

    def start(sample: int) -> float:
        module = _open(root)
        position = {"consumed_steps": sample // ROWS_PER_STEP, "fingerprint": module.fingerprint}
        module.load_state_dict(position)
        begin = time.perf_counter()
        next(iter(module.train_dataloader()))
        waits[sample].append(time.perf_counter() - begin)
        return 1.0

    cases = {f"{sample:,}": partial(start, sample) for sample in SAMPLES}
    start(SAMPLES[0])
    waits[SAMPLES[0]].clear()
    whole = in_turn(cases, 3 * repeats)
    results: dict[str, Any] = {
        f"{sample:,}": {
            "opened_seconds": spread(waits[sample]),
            "cold_seconds": spread([each.wall_seconds for each in whole[f"{sample:,}"]]),
        }
        for sample in SAMPLES
    }
    first, last = results[f"{SAMPLES[0]:,}"], results[f"{SAMPLES[1]:,}"]
    ratios = {kind: last[kind]["median"] / first[kind]["median"] for kind in first}
    print_table(
        f"First step, wall seconds (bar: ratio at most 1.5; measured {ratios})",
        ["at sample", "datamodule opened", "from a cold start"],
        [
            [name, text_of(each["opened_seconds"], 4), text_of(each["cold_seconds"], 3)]
            for name, each in results.items()
        ],
    )
    return results | {"ratio_of_last_to_first": ratios}


def parts_of_a_step(root: Path, repeats: int) -> dict[str, Any]:
    """Measure how the time of a step divides."""
    steps, shares = _steps(root), []
    for repeat in range(repeats):
        spent: dict[str, float] = {}
        begin = time.process_time()
        with (
            _timed(spent, "locate", MixedRows, "locate_many"),
            _timed(spent, "build", training_rows, "build_batch"),
            _timed(spent, "gather", batches, "_read"),
            _timed(spent, "tensors", batches, "lay_out"),
        ):
            for number in range(30):
                steps[30 * repeat + number]
        total = time.process_time() - begin
        del spent["build"]
        shares.append({name: seconds / total for name, seconds in spent.items()})
    results = {name: spread([share[name] for share in shares]) for name in shares[0]}
    print_table(
        "Share of a step (the rest is the requests and the micro-batches)",
        ["part", "share"],
        [[name, text_of(share)] for name, share in results.items()],
    )
    return results


def loader_workers(root: Path, repeats: int) -> dict[str, Any]:
    """Measure what handing steps over from worker processes costs."""

    def read(num_workers: int) -> float:
        module = _open(root, num_workers)
        items = iter(module.train_dataloader())
        amount = million_tokens(items, 150)
        del items
        return amount

    samples = in_turn({str(n): partial(read, n) for n in (0, 1, 2)}, repeats)
    results = {
        name: {
            "million_tokens_per_cpu_second": spread([each.per_cpu_second for each in of_case]),
            "million_tokens_per_second": spread([each.per_wall_second for each in of_case]),
        }
        for name, of_case in samples.items()
    }
    print_table(
        "Through the loader, opening included (CPU of all processes)",
        ["num_workers", "M tokens per CPU second", "M tokens per second"],
        [
            [
                name,
                text_of(each["million_tokens_per_cpu_second"], 1),
                text_of(each["million_tokens_per_second"], 1),
            ]
            for name, each in results.items()
        ],
    )
    return results


def against_others(
    folder: Path, num_documents: int, venvs: dict[str, Path], repeats: int
) -> dict[str, Any]:
    """Measure several ways from the same documents to batches of packed rows."""
    tokenizer = documents.tokenizer()
    for name, weight in WEIGHTS.items():
        share = weight / MEAN_TOKENS[name] * MEAN_TOKENS["pubmed"]
        texts = list(documents.texts(name, int(num_documents * share)))
        ids = tokenizer.encode_batch(texts)
        datasets_pipeline.write_parquet(folder, name, "text", texts)
        datasets_pipeline.write_parquet(folder, name, "ids", ids)
        write_store(folder / name, encoded_shards(ids))
        stream = np.array([token for each in ids for token in [*each, 0]], dtype=np.uint16)
        rows = stream[: len(stream) // SEQ_LEN * SEQ_LEN].reshape(-1, SEQ_LEN)
        np.save(folder / f"{name}.npy", rows)
    steps = _steps(folder)
    stream_of_steps = (steps[number] for number in range(NUM_STEPS))
    next(stream_of_steps)
    texts_now = partial(datasets_pipeline.mixed_texts, folder, WEIGHTS, tokenizer)
    ids_now = partial(datasets_pipeline.mixed_ids, folder, WEIGHTS, tokenizer.eod_id)
    samples = in_turn(
        {
            "token stores": partial(million_tokens, stream_of_steps, 100),
            "datasets, tokenised while training": partial(_read_packed, texts_now, 120),
            "datasets, tokenised beforehand": partial(_read_packed, ids_now, 240),
        },
        repeats,
    )
    foreign = {name: _foreign(name, venv, folder, repeats) for name, venv in sorted(venvs.items())}
    return _comparison(samples, foreign)


def _comparison(
    samples: dict[str, list[Sample]], foreign: dict[str, list[Sample] | str]
) -> dict[str, Any]:
    results: dict[str, Any] = {}
    own = samples["token stores"]
    for name, found in {**samples, **foreign}.items():
        if isinstance(found, str):
            results[name] = {"not_measured": found}
            continue
        rates = [each.per_cpu_second for each in found]
        ratios = [a.per_cpu_second / b.per_cpu_second for a, b in zip(own, found, strict=True)]
        results[name] = {
            "million_tokens_per_cpu_second": spread(rates),
            "token_stores_are_faster_by": spread(ratios),
        }
    print_table(
        "From documents to batches, one thread (bar: 50 times datasets tokenising)",
        ["way", "M tokens per CPU second", "token stores are faster by"],
        [
            [
                name,
                text_of(each["million_tokens_per_cpu_second"]),
                text_of(each["token_stores_are_faster_by"], 1),
            ]
            if "not_measured" not in each
            else [name, "not measured", each["not_measured"][-60:]]
            for name, each in results.items()
        ],
    )
    return results


def _foreign(name: str, venv: Path, folder: Path, repeats: int) -> list[Sample] | str:
    """Measure another library in its own environment, or return why that fails."""
    script = Path(__file__).with_name("other_libraries.py")
    samples = []
    for _ in range(repeats):
        done = subprocess.run(
            [str(venv / "bin" / "python"), str(script), name, str(folder), "20_000_000"],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
        found = json.loads(done.stdout.strip().splitlines()[-1])
        samples.append(Sample(found["amount"], found["cpu_seconds"], found["wall_seconds"]))
    return samples


def _read_packed(source: Callable[[], Iterator[list[int]]], num_batches: int) -> float:
    rows = datasets_pipeline.packed(source(), SEQ_LEN, MICRO_BATCH_SIZE)
    return sum(next(rows)[0].numel() for _ in range(num_batches)) / MILLION


def _open(root: Path, num_workers: int = 0) -> PretrainDataModule:
    module = datamodule(root, num_workers)
    module.prepare_data()
    module.setup()
    return module


def _steps(root: Path) -> TrainingSteps:
    return _open(root).steps(rank=0, world_size=1)


@contextmanager
def _timed(spent: dict[str, float], name: str, owner: Any, function: str) -> Iterator[None]:
    """Add up the CPU seconds of a function under a name."""
    original = getattr(owner, function)

    def timed(*arguments: Any, **keywords: Any) -> Any:
        begin = time.process_time()
        result = original(*arguments, **keywords)
        spent[name] = spent.get(name, 0.0) + time.process_time() - begin
        return result

    setattr(owner, function, timed)
    try:
        yield
    finally:
        setattr(owner, function, original)


def main() -> None:
    """Run the parts that are asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--documents", type=int, default=8_000, help="documents to compare on")
    parser.add_argument("--with-venv", action="append", default=[], metavar="LIBRARY=FOLDER")
    parser.add_argument("--output", type=Path, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    venvs = {name: Path(path) for name, path in (each.split("=") for each in asked.with_venv)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        results = {"by_corpus_size": by_corpus_size(folder, asked.sizes, asked.repeats)}
        largest = folder / f"{asked.sizes[-1]}"
        results["first_batch"] = first_batch(largest, asked.repeats)
        results["parts_of_a_step"] = parts_of_a_step(largest, asked.repeats)
        results["loader_workers"] = loader_workers(largest, min(asked.repeats, 3))
        results["against_others"] = against_others(
            folder / "documents", asked.documents, venvs, min(asked.repeats, 3)
        )
    write_result("data_engine", results, asked.output)


if __name__ == "__main__":
    main()
