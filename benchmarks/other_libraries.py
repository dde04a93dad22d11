"""Read packed rows with another library; data_engine.py starts this in that library's environment.

    <venv>/bin/python other_libraries.py mosaicml <folder of .npy rows> <tokens to read>

The rows are already packed, so the library is not charged for packing; it makes no numbers of
documents either. Only numpy, torch and the library are needed. The last line printed is JSON.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

WEIGHTS = {"pubmed": 0.8, "web": 0.1, "wikipedia": 0.1}
MICRO_BATCH_SIZE = 8
PACKAGES = {"mosaicml": "mosaicml-streaming", "litdata": "litdata"}


def collate(items: list[dict[str, np.ndarray]]) -> torch.Tensor:
    """Stack rows as the model takes them."""
    return torch.from_numpy(np.stack([item["tokens"] for item in items]).astype(np.int64))


def mosaicml(folder: Path, seq_len: int) -> Iterator[torch.Tensor]:
    """Iterate over batches of mosaicml-streaming."""
    # It imports torchvision, whose wheel does not load beside a CPU build of torch.
    for name in ("nms", "qnms"):
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{name}", signature)
    from streaming import MDSWriter, Stream, StreamingDataset

    streams = []
    for name, weight in WEIGHTS.items():
        local = folder / "mosaicml" / name
        if not (local / "index.json").is_file():
            columns = {"tokens": f"ndarray:uint16:{seq_len}"}
            with MDSWriter(out=str(local), columns=columns) as writer:
                for row in np.load(folder / f"{name}.npy"):
                    writer.write({"tokens": row})
        streams.append(Stream(local=str(local), proportion=weight))
    rows = StreamingDataset(streams=streams, shuffle=True, batch_size=MICRO_BATCH_SIZE)
    while True:
        yield from DataLoader(rows, batch_size=MICRO_BATCH_SIZE, collate_fn=collate)


def litdata(folder: Path, seq_len: int) -> Iterator[torch.Tensor]:
    """Iterate over batches of litdata."""
    from litdata import (
        CombinedStreamingDataset,
        StreamingDataLoader,
        StreamingDataset,
        TokensLoader,
        optimize,
    )

    parts = []
    for name in WEIGHTS:
        target = folder / "litdata" / name
        if not (target / "index.json").is_file():
            optimize(
                fn=tokens_of,
                inputs=[str(folder / f"{name}.npy")],
                output_dir=str(target),
                chunk_size=seq_len * 4_096,
                item_loader=TokensLoader(block_size=seq_len),
                num_workers=1,
            )
        loader = TokensLoader(block_size=seq_len)
        parts.append(StreamingDataset(str(target), item_loader=loader, shuffle=True))
    weights = list(WEIGHTS.values())
    rows = CombinedStreamingDataset(parts, weights=weights, iterate_over_all=False)
    while True:
        for batch in StreamingDataLoader(rows, batch_size=MICRO_BATCH_SIZE, num_workers=0):
            yield batch.to(torch.int64)


def tokens_of(path: str) -> Iterator[torch.Tensor]:
    """Iterate over the rows of a file."""
    for row in np.load(path):
        yield torch.from_numpy(row.astype(np.int32))


def main() -> None:
    """Read and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=PACKAGES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("num_tokens", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seq_len = np.load(asked.folder / "pubmed.npy", mmap_mode="r").shape[1]
    readers: dict[str, Callable[[Path, int], Iterator[torch.Tensor]]] = {
        "mosaicml": mosaicml,
        "litdata": litdata,
    }
    batches = readers[asked.library](asked.folder, seq_len)
    next(batches)  # conversion and opening are not counted
    cpu, wall, num_tokens = time.process_time(), time.perf_counter(), 0
    while num_tokens < asked.num_tokens:
        num_tokens += next(batches).numel()
    result = {
        "amount": num_tokens / 1e6,
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "version": version(PACKAGES[asked.library]),
    }
    if asked.library == "litdata":
        shutil.rmtree(Path.home() / ".lightning" / "chunks", ignore_errors=True)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
