"""Memory and time of the loss over 50,288 words, forward and backward.

    python benchmarks/loss_memory.py

Every measurement is a process of its own, in turn: it runs the loss on a few rows so that libraries
and threads are there, notes what it holds, and reads the peak of its memory (VmHWM) after one loss
on all rows. The gradients, which every way has, are taken off.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measurement import cpu_seconds, in_turn, print_table, spread, text_of, write_result
from torch import Tensor
from torch.nn import functional as F

from biomamba.model.loss import linear_cross_entropy

VOCAB, WIDTH = 50_288, 768
MEMORY_BAR = 1 / 8  # of the full float32 logits, at 8,192 rows
TIME_BAR = 1.1  # of the plain loss
WARM_UP_ROWS = 64
MAX_TORCH_ROWS = 1_024  # it takes time and memory of the full logits unless told otherwise
PLAIN, OURS, TORCH = "full logits", "linear_cross_entropy", "torch's linear_cross_entropy"


def _plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")


def _torch(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.linear_cross_entropy(hidden, weight, targets, reduction="sum")


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    PLAIN: _plain,
    OURS: linear_cross_entropy,
}
if hasattr(F, "linear_cross_entropy"):
    WAYS[TORCH] = _torch


def main() -> None:
    """Measure every way at every size, or one of them in this process."""
    options = _options()
    if options.single:
        print(json.dumps(_single(*json.loads(options.single))))
        return
    results = {
        f"{rows} {precision}": _compared(rows, precision, options)
        for rows in options.rows
        for precision in options.precisions
    }
    _print(results)
    settings = {"vocab": VOCAB, "width": WIDTH, "threads": torch.get_num_threads()}
    write_result("loss_memory", settings | results, options.output)


def _single(way: str, rows: int, precision: str) -> dict[str, float]:
    """Measure one loss in this process."""
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(VOCAB, WIDTH, generator=generator).mul_(0.02).requires_grad_()
    hidden = torch.randn(rows, WIDTH, generator=generator)
    # As a last norm hands it over: in the dtype of the products.
    hidden = hidden.to(torch.bfloat16 if precision == "bf16" else torch.float32).requires_grad_()
    targets = torch.randint(VOCAB, (rows,), generator=generator)
    few = hidden[:WARM_UP_ROWS].detach()
    with _products(precision):
        WAYS[way](few, weight, targets[:WARM_UP_ROWS]).backward()
    weight.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before, wall, cpu = _memory("VmRSS"), time.perf_counter(), cpu_seconds()
    with _products(precision):
        total = WAYS[way](hidden, weight, targets)
    total.backward()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    assert weight.grad is not None
    assert hidden.grad is not None
    gradients = weight.grad.nbytes + hidden.grad.nbytes
    return {
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "extra_bytes": _memory("VmHWM") - before - gradients,
        "loss_per_row": total.item() / rows,
    }


def _products(precision: str) -> AbstractContextManager[None]:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def _memory(name: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _compared(rows: int, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all ways in turn; ratios are those of one repeat."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}

    def in_own_process(way: str) -> float:
        command = [sys.executable, __file__, "--single", json.dumps([way, rows, precision])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[way].append(json.loads(done.stdout.splitlines()[-1]))
        print(rows, precision, way, found[way][-1], file=sys.stderr, flush=True)
        return rows

    ways = {way: partial(in_own_process, way) for way in (PLAIN, OURS)}
    in_turn(ways, options.repeats)
    if TORCH in WAYS and rows <= MAX_TORCH_ROWS:
        in_own_process(TORCH)
    full_logits = 4 * rows * VOCAB
    return {
        way: {name: spread([each[name] for each in measured]) for name in measured[0]}
        | {
            "share_of_logits": spread([each["extra_bytes"] / full_logits for each in measured]),
            "time_to_plain": _ratio(measured, found[PLAIN], "wall_seconds"),
            "cpu_to_plain": _ratio(measured, found[PLAIN], "cpu_seconds"),
        }
        for way, measured in found.items()
        if measured
    }


def _ratio(own: list[dict[str, float]], plain: list[dict[str, float]], name: str) -> Any:
    return spread([a[name] / b[name] for a, b in zip(own, plain, strict=False)])


def _print(results: dict[str, Any]) -> None:
    print_table(
        f"Loss over {VOCAB:,} words (bars at 8,192 rows: {MEMORY_BAR:.3f} of the logits, "
        f"{TIME_BAR} of the time)",
        ["rows, precision, way", "extra MB", "of fp32 logits", "time / plain", "CPU / plain"],
        [
            [
                f"{case} {way}",
                f"{found['extra_bytes']['median'] / 1e6:,.0f}",
                f"{found['share_of_logits']['median']:.3f}",
                text_of(found["time_to_plain"]),
                text_of(found["cpu_to_plain"]),
            ]
            for case, ways in results.items()
            for way, found in ways.items()
        ],
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_024, 4_096, 8_192])
    parser.add_argument(
        "--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"]
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--single", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
