"""Several ways from the same documents to batches of packed rows."""

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import datasets_pipeline
import documents
import numpy as np
from engine import MICRO_BATCH_SIZE, NUM_STEPS, SEQ_LEN, WEIGHTS, million_tokens, steps_of
from measurement import Sample, in_turn, print_table, spread, text_of
from synthetic_stores import MEAN_TOKENS, encoded_shards, write_store

FOREIGN_TOKENS = 20_000_000


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
    steps = steps_of(folder)
    stream_of_steps = (steps[number] for number in range(NUM_STEPS))
    next(stream_of_steps)
    texts_now = partial(datasets_pipeline.mixed_texts, folder, WEIGHTS, tokenizer)
    ids_now = partial(datasets_pipeline.mixed_ids, folder, WEIGHTS, tokenizer.eod_id)
    cases: dict[str, Callable[[], float | Sample]] = {
        "token stores": partial(million_tokens, stream_of_steps, 100),
        "datasets, tokenized while training": partial(_read_packed, texts_now, 240),
        "datasets, tokenized beforehand": partial(_read_packed, ids_now, 480),
    }
    missing = {}
    for name, venv in sorted(venvs.items()):
        try:
            _foreign(name, venv, folder)
            cases[f"{name}, packed beforehand"] = partial(_foreign, name, venv, folder)
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            missing[name] = str(error)
    return _comparison(in_turn(cases, repeats), missing)


def _comparison(samples: dict[str, list[Sample]], missing: dict[str, str]) -> dict[str, Any]:
    own = samples["token stores"]
    results: dict[str, Any] = {
        name: {
            "million_tokens_per_cpu_second": spread([each.per_cpu_second for each in found]),
            "token_stores_are_faster_by": spread(
                [a.per_cpu_second / b.per_cpu_second for a, b in zip(own, found, strict=True)]
            ),
        }
        for name, found in samples.items()
    }
    print_table(
        "From documents to batches, one thread (bar: 50 times datasets tokenizing)",
        ["way", "M tokens per CPU second", "token stores are faster by"],
        [
            [
                name,
                text_of(each["million_tokens_per_cpu_second"]),
                text_of(each["token_stores_are_faster_by"], 1),
            ]
            for name, each in results.items()
        ]
        + [[name, "not measured", reason[-60:]] for name, reason in missing.items()],
    )
    return results | {"not_measured": missing, "texts": documents.kind()}


def _foreign(name: str, venv: Path, folder: Path) -> Sample:
    """Measure another library in its own environment."""
    script = Path(__file__).with_name("other_libraries.py")
    done = subprocess.run(
        [str(venv / "bin" / "python"), str(script), name, str(folder), str(FOREIGN_TOKENS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Sample(found["amount"], found["cpu_seconds"], found["wall_seconds"])


def _read_packed(source: Callable[[], Iterator[list[int]]], num_batches: int) -> float:
    endless = (ids for _ in count() for ids in source())
    rows = datasets_pipeline.packed(endless, SEQ_LEN, MICRO_BATCH_SIZE)
    return sum(next(rows)[0].numel() for _ in range(num_batches)) / 1e6
