"""How fast a step of Mamba-1 is, and what memory it takes, beside transformers without kernels.

    python benchmarks/selective_scan.py

A step is forward and backward of one block of the 130M shape over one row, in processor time.
Without kernels transformers goes position by position, and the time of its backward grows with the
square of the length: the default lengths are short.
"""

import argparse
import ctypes
import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from measurement import Sample, in_turn, print_table, spread, text_of, write_result
from torch import Tensor

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config
from biomamba.model.language_model import MambaLM

WIDTH, WORDS = 768, 512
BASE = "transformers fp32"


def main() -> None:
    """Measure every length."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lengths", nargs="*", type=int, default=[64, 128, 256])
    parser.add_argument("--only-ours", action="store_true", help="for long rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = {"ours": ours()} | ({} if options.only_ours else {"transformers": others()})
    results = {
        f"{length} tokens": one_length(models, length, options.repeats)
        for length in options.lengths
    }
    write_result("selective_scan", {"threads": options.threads, **results}, options.output)


def ours() -> Callable[[Tensor], Tensor]:
    """Return our model of one block, from ids to logits."""
    torch.manual_seed(0)
    return MambaLM(Mamba1Config(d_model=WIDTH, n_layer=1, vocab_size=WORDS), ChunkedScan())


def others() -> Callable[[Tensor], Tensor]:
    """Return that of transformers."""
    config = transformers.MambaConfig(
        hidden_size=WIDTH, num_hidden_layers=1, vocab_size=WORDS, use_cache=False
    )
    model = transformers.MambaForCausalLM(config).train()

    def logits(ids: Tensor) -> Tensor:
        found: Tensor = model(ids).logits
        return found

    return logits


def one_length(
    models: dict[str, Callable[[Tensor], Tensor]], length: int, repeats: int
) -> dict[str, Any]:
    """Measure each model in both dtypes, in turn."""
    ids = torch.randint(WORDS, (1, length))
    cases = {
        f"{name} {dtype}": partial(step, model, ids, dtype == "bf16")
        for name, model in models.items()
        for dtype in ("fp32", "bf16")
    }
    memory = {}
    for name, case in cases.items():
        case()
        gc.collect()
        memory[name] = peak_bytes(case)
    samples = in_turn(cases, repeats)
    found = {
        name: {
            "tokens_per_cpu_second": spread([sample.per_cpu_second for sample in samples[name]]),
            "times": ratio(samples[name], samples[BASE]) if BASE in samples else None,
            "peak_megabytes": memory[name] / 1e6,
        }
        for name in cases
    }
    print_table(
        f"{length:,} tokens",
        ["step", "tokens per CPU second", f"x {BASE}", "MB"],
        [
            [
                name,
                text_of(each["tokens_per_cpu_second"], 0),
                text_of(each["times"]) if each["times"] else "",
                f"{each['peak_megabytes']:,.0f}",
            ]
            for name, each in found.items()
        ],
    )
    return found


def step(model: Callable[[Tensor], Tensor], ids: Tensor, is_narrow: bool) -> float:
    """Run forward and backward, and return the tokens."""
    with torch.autocast("cpu", torch.bfloat16, enabled=is_narrow):
        logits = model(ids)
    logits.float().logsumexp(-1).sum().backward()
    return float(ids.numel())


def ratio(a: list[Sample], b: list[Sample]) -> dict[str, float]:
    """Return the spread of how many times the speed of b a has."""
    return spread([x.per_cpu_second / y.per_cpu_second for x, y in zip(a, b, strict=True)])


def peak_bytes(work: Callable[[], object]) -> int:
    """Return by how much the memory of the process grew at the most during work."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier cases have freed would hide this one's
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the highest mark
    work()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


if __name__ == "__main__":
    main()
