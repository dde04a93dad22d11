"""How fast training rows are read, mixed and packed from token stores.

    python benchmarks/data_engine.py [--with-venv mosaicml=<folder> --with-venv litdata=<folder>]

Four questions: does the rate depend on the size of the corpus; does the first batch of a resumed
run come later; where does the time go; how does it compare with other ways to the same batches.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from comparison import against_others
from engine import NUM_STEPS, ROWS_PER_STEP, SEQ_LEN, WEIGHTS, million_tokens, open_run, steps_of
from measurement import cpu_seconds, in_turn, print_table, spread, text_of, write_result
from synthetic_stores import random_shards, write_store

from biomamba.data import batches
from biomamba.data import batches as training_rows
from biomamba.data.batches import Batch
from biomamba.data.mixture import MixedRows

SAMPLES = (0, 10_000_000)


def by_corpus_size(folder: Path, sizes: list[int], repeats: int) -> dict[str, Any]:
    """Measure opening and reading for corpora of several sizes."""
    opening: dict[str, list[float]] = {}
    streams: dict[str, Iterator[list[Batch]]] = {}
    for size in sizes:
        root, name = folder / f"{size}", f"{size:,}"
        for source, weight in WEIGHTS.items():
            write_store(root / source, random_shards(source, round(size * weight), seed=0))
        opening[name] = [_opening_cpu_seconds(root) for _ in range(repeats)]
        steps = steps_of(root)
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


def _opening_cpu_seconds(root: Path) -> float:
    begin = cpu_seconds()
    open_run(root)
    return cpu_seconds() - begin


def first_batch(root: Path, repeats: int) -> dict[str, Any]:
    """Measure the first step at the start of a run and far into it, opening excluded and not."""
    waits: dict[int, list[float]] = {sample: [] for sample in SAMPLES}

    def start(sample: int) -> float:
        module = open_run(root)
        position = {"consumed_steps": sample // ROWS_PER_STEP, "fingerprint": module.fingerprint}
        module.load_state_dict(position)
        begin = time.perf_counter()
        next(iter(module.train_dataloader()))
        waits[sample].append(time.perf_counter() - begin)
        return 1.0

    cases: dict[str, Callable[[], float]] = {
        f"{sample:,}": partial(start, sample) for sample in SAMPLES
    }
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
        "First step, wall seconds (bar: at most 1.5 times as long)",
        ["at sample", "datamodule opened", "from a cold start"],
        [
            [name, text_of(each["opened_seconds"], 4), text_of(each["cold_seconds"], 3)]
            for name, each in results.items()
        ]
        + [["ratio", *(f"{ratio:.2f}" for ratio in ratios.values())]],
    )
    return results | {"ratio_of_last_to_first": ratios}


def parts_of_a_step(root: Path, repeats: int) -> dict[str, Any]:
    """Measure how the time of a step divides."""
    steps, shares = steps_of(root), []
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
        module = open_run(root, num_workers)
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
