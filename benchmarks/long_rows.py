"""Memory and time of rows of up to 131,072 tokens, whole and in segments.

    python benchmarks/long_rows.py

Scoring (forward) and training (forward and backward) of one row by the small model. Every
measurement is a process of its own, in turn; its memory is the peak (VmHWM) above what it held
before, weights and gradients not counted.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measurement import in_turn, print_table, spread, text_of, write_result

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.model.loss import linear_cross_entropy
from biomamba.model.segments import Segments, hidden_by_segment

MODEL = Mamba2Config(d_model=256, n_layer=8, vocab_size=8_192, d_state=64)
SEGMENT_TOKENS = 2_048
WARM_UP_TOKENS = 256
# Whole rows in training: 4.4 GB at 32,768 tokens.
MOST_TOKENS = {("training", "whole"): 32_768}


def main() -> None:
    """Measure every length, or one case in this process."""
    options = _options()
    if options.single:
        print(json.dumps(_single(*json.loads(options.single))))
        return
    results = {
        f"{kind} {tokens}": _compared(kind, tokens, options.repeats)
        for kind in ("scoring", "training")
        for tokens in options.tokens
    }
    _print(results)
    settings = {"segment_tokens": SEGMENT_TOKENS, "threads": torch.get_num_threads()}
    write_result("long_rows", settings | results, options.output)


def _single(kind: str, cut: str, tokens: int) -> dict[str, float]:
    """Pass one row through the model."""
    torch.manual_seed(0)
    model = MambaLM(MODEL, ChunkedScan()).requires_grad_(kind == "training")
    for parameter in model.parameters():
        if kind == "training":
            parameter.grad = torch.zeros_like(parameter)
    ids = torch.randint(MODEL.vocab_size, (1, tokens + 1))
    segments = Segments(SEGMENT_TOKENS if cut == "segments" else tokens)
    _pass(model, ids[:, : WARM_UP_TOKENS + 1], segments)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before, begin = _memory("VmRSS"), time.perf_counter()
    nll = _pass(model, ids, segments)
    seconds = time.perf_counter() - begin
    return {
        "microseconds_per_token": 1e6 * seconds / tokens,
        "extra_bytes": _memory("VmHWM") - before,
        "nll_per_token": nll / tokens,
    }


def _pass(model: MambaLM, ids: torch.Tensor, segments: Segments) -> float:
    inputs, targets = ids[:, :-1], ids[:, 1:]
    total = 0.0
    with torch.set_grad_enabled(model.head_weight.requires_grad):
        for here, hidden in hidden_by_segment(model, inputs, torch.zeros_like(inputs), segments):
            part = linear_cross_entropy(
                hidden.flatten(0, 1), model.head_weight, targets[:, here].flatten()
            )
            if part.requires_grad:
                part.backward()
            total += part.item()
    return total


def _memory(name: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _compared(kind: str, tokens: int, repeats: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {}

    def in_own_process(cut: str) -> float:
        command = [sys.executable, __file__, "--single", json.dumps([kind, cut, tokens])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.setdefault(cut, []).append(json.loads(done.stdout.splitlines()[-1]))
        return tokens

    cuts = [c for c in ("whole", "segments") if tokens <= MOST_TOKENS.get((kind, c), tokens)]
    in_turn({cut: partial(in_own_process, cut) for cut in cuts}, repeats)
    return {
        cut: {name: spread([each[name] for each in measured]) for name in measured[0]}
        for cut, measured in found.items()
    }


def _print(results: dict[str, Any]) -> None:
    print_table(
        f"One row, {MODEL.num_parameters():,} parameters, segments of {SEGMENT_TOKENS:,} tokens",
        ["pass, tokens, cut", "extra MB", "microseconds per token", "nats per token"],
        [
            [
                f"{case} {cut}",
                f"{found['extra_bytes']['median'] / 1e6:,.0f}",
                text_of(found["microseconds_per_token"], 0),
                f"{found['nll_per_token']['median']:.5f}",
            ]
            for case, cuts in results.items()
            for cut, found in cuts.items()
        ],
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2_048, 8_192, 32_768, 131_072])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--single", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
