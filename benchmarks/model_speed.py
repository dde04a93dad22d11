"""How fast a training step is: against transformers, against the processor, and over length.

    python benchmarks/model_speed.py

A step is forward, backward, clipping and AdamW over one row. Peaks are those of square matrix
products, measured in the same turns. On a machine that is busy with other things the clock says
little; `--threads 1 --clock cpu` then counts CPU seconds.
"""

import argparse
import gc
import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measurement import RESULTS, Sample, in_turn, print_table, spread, text_of, write_result
from training_cases import SIZES, others, ours, peak_bytes, product, transformer

Clock = Callable[[Sample], float]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BARS = {  # of ours: times the speed of transformers in fp32 and in bf16, shares of the two peaks
    "fp32": {"transformers fp32": 3.5},
    "bf16": {"transformers fp32": 7.0, "transformers bf16": 3.5, "fp32": 1.0, "bf16": 0.4},
    "bf16, 8,192 tokens": {"transformers fp32": 6.0},
}
EXPONENT_BAR = 1.05


def main() -> None:
    """Measure every size and length, then the growth over length."""
    options = _options()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {"threads": options.threads, "clock": options.clock, "bars": BARS}
    seconds = attrgetter(f"{options.clock}_seconds")
    for name in options.sizes:
        for length in options.lengths:
            results[f"{name}, {length} tokens"] = one_size(name, length, options.repeats, seconds)
    if options.growth:
        results["growth"] = growth(options.growth, options.repeats, seconds)
        _plot(results["growth"], (options.output or RESULTS / "model_speed.json"))
    write_result("model_speed", results, options.output)


def one_size(name: str, length: int, repeats: int, seconds: Clock) -> dict[str, Any]:
    """Measure ours and transformers in both dtypes, and both peaks, in turn."""
    size = SIZES[name]
    trainings = {
        "ours": ours(size, length),
        "ours, compiled norms,": ours(size, length, compile_norms=True),
        "transformers": others(size, length),
    }
    steps = {
        f"{who} {dtype}": partial(training.step, DTYPES[dtype])
        for who, training in trainings.items()
        for dtype in DTYPES
    }
    peaks = {dtype: partial(product, DTYPES[dtype]) for dtype in DTYPES}
    memory = _warm_up(steps)
    rates = {
        case: [sample.amount / seconds(sample) for sample in samples]
        for case, samples in in_turn({**steps, **peaks}, repeats).items()
    }
    found = {
        case: {
            "tokens_per_second": spread(rates[case]),
            "times": {
                other: _ratio(rates[case], rates[other])
                for other in ("transformers fp32", "transformers bf16")
            },
            "share_of_peak": {
                dtype: _ratio(rates[case], rates[dtype], size.operations_per_token)
                for dtype in DTYPES
            },
            "peak_gigabytes": memory[case] / 1e9,
        }
        for case in steps
    }
    gigaflops = {dtype: spread([rate / 1e9 for rate in rates[dtype]]) for dtype in DTYPES}
    _print_size(f"{name}, {length:,} tokens", found, gigaflops)
    return {"cases": found, "peak_gigaflops": gigaflops}


def growth(lengths: Sequence[int], repeats: int, seconds: Clock) -> dict[str, Any]:
    """Measure two blocks of Mamba2 and one of a Transformer over the length, in bf16."""
    size, makers = SIZES["two layers"], {"mamba2": ours, "transformer": transformer}
    found: dict[str, Any] = {name: {} for name in makers}
    times: dict[str, list[list[float]]] = {name: [] for name in makers}
    for length in lengths:
        trainings = {name: make(size, length) for name, make in makers.items()}
        steps = {n: partial(each.step, torch.bfloat16) for n, each in trainings.items()}
        memory = _warm_up(steps)
        for name, samples in in_turn(steps, repeats).items():
            of_length = [seconds(sample) for sample in samples]
            times[name].append(of_length)
            found[name][length] = {
                "seconds": spread(of_length),
                "peak_gigabytes": memory[name] / 1e9,
            }
    for name, by_length in times.items():
        fits = [_exponent(lengths, of_repeat) for of_repeat in zip(*by_length, strict=True)]
        found[name]["exponent"] = spread(fits)
    _print_growth(lengths, found)
    return found


def _warm_up(steps: dict[str, Callable[[], float]]) -> dict[str, int]:
    """Take two steps of each case, and return the memory that the second one needs."""
    memory = {}
    for case, step in steps.items():
        step()
        gc.collect()
        memory[case] = peak_bytes(step)
    return memory


def _ratio(a: Sequence[float], b: Sequence[float], factor: float = 1.0) -> dict[str, float]:
    return spread([factor * x / y for x, y in zip(a, b, strict=True)])


def _exponent(lengths: Sequence[int], seconds: Sequence[float]) -> float:
    """Fit seconds ~ length ** exponent."""
    slope, _ = np.polyfit([math.log(x) for x in lengths], [math.log(y) for y in seconds], 1)
    return float(slope)


def _print_size(title: str, found: dict[str, Any], rates: dict[str, Any]) -> None:
    headings = ["step", "tokens/s", "x transformers fp32", "x its bf16", "of fp32 peak"]
    print_table(
        f"{title}; peaks {text_of(rates['fp32'], 0)} and {text_of(rates['bf16'], 0)} GFLOP/s",
        [*headings, "of bf16 peak", "GB"],
        [
            [
                case,
                text_of(each["tokens_per_second"], 0),
                *(text_of(each["times"][f"transformers {dtype}"]) for dtype in DTYPES),
                *(text_of(each["share_of_peak"][dtype]) for dtype in DTYPES),
                f"{each['peak_gigabytes']:.2f}",
            ]
            for case, each in found.items()
        ],
    )


def _print_growth(lengths: Sequence[int], found: dict[str, Any]) -> None:
    print_table(
        f"Two blocks of Mamba2 and one of a Transformer, bf16 (bar: exponent {EXPONENT_BAR})",
        ["length", *(f"{name}: microseconds/token, GB" for name in found)],
        [
            [
                f"{length:,}",
                *(
                    f"{1e6 * each[length]['seconds']['median'] / length:,.0f}, "
                    f"{each[length]['peak_gigabytes']:.2f}"
                    for each in found.values()
                ),
            ]
            for length in lengths
        ]
        + [["exponent", *(text_of(each["exponent"]) for each in found.values())]],
    )


def _plot(found: dict[str, Any], output: Path) -> None:
    """Draw time and memory over the length beside the result, if matplotlib is there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, key, title in zip(
        figure.subplots(1, 2),
        (lambda each: each["seconds"]["median"], lambda each: each["peak_gigabytes"]),
        ("seconds of a step", "gigabytes of a step"),
        strict=True,
    ):
        for name, by_length in found.items():
            lengths = [length for length in by_length if isinstance(length, int)]
            values = [key(by_length[length]) for length in lengths]
            axes.loglog(lengths, values, marker="o", label=name)
        axes.set(xlabel="tokens", title=title)
        axes.legend()
    figure.savefig(output.with_suffix(".png"), dpi=120)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    sizes = [name for name, size in SIZES.items() if name != "two layers"]
    parser.add_argument("--sizes", nargs="*", choices=sizes, default=["layer", "25m"])
    parser.add_argument("--lengths", nargs="*", type=int, default=[512, 2_048])
    parser.add_argument("--growth", nargs="*", type=int, default=[2**k for k in range(10, 16)])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
