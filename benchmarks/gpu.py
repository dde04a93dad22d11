"""Measure this package on a GPU beside mamba_ssm, transformers and a Transformer, in one call.

    python benchmarks/gpu.py --wheels <folder>           # an NVIDIA GPU, at most 9 minutes
    python benchmarks/gpu.py --device cpu --sizes tiny   # tries the program itself

Sections: parity with the recurrence, peak of the matrix product, tests marked gpu, training, packed
documents against padded rows, steps of generation with and without CUDA graphs, kernels of the
loss, generation. Each has its share of the time and stops when it is over; every
figure is written when it is known. A training step is forward and backward in bf16 autocast with
float32 weights, without optimizer. What fails or does not fit is recorded with its reason.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gpu_parts
import torch
from gpu_install import install
from gpu_models import (
    CONTENDERS,
    IGNORED,
    SCALES,
    Contender,
    Scale,
    build_on,
    flops_per_token,
)
from measurement import RESULTS, write_result
from parity_cases import USUAL, measure_parity, usual_backends
from torch import Tensor

DEFAULT_SIZES = ("130m", "1.3b", "370m", "2.7b", "780m")  # the most telling first
STEP_TOKENS = 8_192
ROW_TOKENS = 1_024
# Share of the whole time up to which each section may run.
ENDS = {
    "parity": 0.1,
    "peak": 0.12,
    "tests": 0.14,
    "training": 0.72,
    "packing": 0.8,
    "decoding": 0.88,
    "loss": 0.92,
    "generation": 1.0,
}


class Benchmark:
    """The measurements and the time that is left for them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device: str = options.device
        self.is_cuda = self.device == "cuda"
        self.scales = {name: SCALES[name] for name in options.sizes}
        self.is_tiny = set(options.sizes) == {"tiny"}
        self.output: Path = options.output
        self.begin, self.budget = time.perf_counter(), options.budget_seconds
        self.written = self.begin
        self.results: dict[str, Any] = {"sizes": list(options.sizes), "sections": {}}

    def run(self) -> None:
        """Run all sections, each until its time is over."""
        for name, end in ENDS.items():
            found: list[dict[str, Any]] = []
            self.results["sections"][name] = found
            cases: Iterator[dict[str, Any]] = getattr(self, name)()
            while time.perf_counter() - self.begin < end * self.budget:
                row = next(cases, None)
                if row is None:
                    break
                found.append(row)
                print(row, flush=True)
                if time.perf_counter() - self.written > 5:
                    self.write()
            else:
                self.results.setdefault("cut_short", []).append(name)
        self.write()

    def write(self) -> None:
        """Write what is known so far."""
        self.written = time.perf_counter()
        self.results["seconds"] = self.written - self.begin
        write_result("gpu", {"gpu": gpu_parts.gpu_name(self.is_cuda), **self.results}, self.output)

    def parity(self) -> Iterator[dict[str, Any]]:
        """Compare the backends with the recurrence in float64."""
        dtypes = (torch.float32, torch.bfloat16, torch.float16)
        sizes = replace(USUAL, length=40, boundaries=(1, 16)) if self.is_tiny else USUAL
        for found in measure_parity(usual_backends(self.device), dtypes, sizes, self.device):
            yield asdict(found)

    def peak(self) -> Iterator[dict[str, Any]]:
        """Time the product of two random bf16 matrices: what the card can do at best."""
        size = 8_192 if self.is_cuda else 256
        a, b = (torch.randn(size, size, device=self.device).bfloat16() for _ in range(2))
        seconds = self.timed(lambda: torch.mm(a, b), least_repeats=10)
        self.results["peak_flops"] = 2 * size**3 / seconds
        yield {"size": size, "seconds": seconds, "tflops": 2e-12 * size**3 / seconds}

    def training(self) -> Iterator[dict[str, Any]]:
        """Time training steps of every scale, length and model."""
        lengths = (64, 128) if self.is_tiny else (2_048, 1_024, 8_192)
        for length in lengths:
            for scale_name, scale in self.scales.items():
                for name, make in CONTENDERS.items():
                    case = {"scale": scale_name, "length": length, "model": name}
                    yield case | self.attempt(
                        make, scale, lambda c, n=length: self.training_of(c, n)
                    )

    def training_of(self, contender: Contender, length: int) -> dict[str, float]:
        """Return tokens per second, share of the peak and peak memory of a training step."""
        rows = max(1, (256 if self.is_tiny else STEP_TOKENS) // length)
        ids = torch.randint(200, (rows, length + 1), device=self.device)
        seconds = self.timed(lambda: self.step(contender, ids[:, :-1], ids[:, 1:], None))
        rate = rows * length / seconds
        share = (
            rate * flops_per_token(contender, length) / self.results.get("peak_flops", torch.nan)
        )
        return {"tokens_per_second": rate, "mfu": share, "rows": rows} | self.peak_memory()

    def packing(self) -> Iterator[dict[str, Any]]:
        """Compare packed rows with one padded document a row, by useful tokens."""
        rows, row_tokens = (2, 64) if self.is_tiny else (8, ROW_TOKENS)
        scale_name = next(iter(self.scales))
        lengths = document_lengths(4 * rows * row_tokens, row_tokens)
        batches = {
            "packed": packed_batch(lengths, rows, row_tokens),
            "padded": padded_batch(lengths, rows, row_tokens),
        }
        for name in ("ours, backend=auto", "mamba_ssm", "transformers Mamba2"):
            for kind, batch in batches.items():
                case = {"scale": scale_name, "model": name, "rows": kind}

                def measure(contender: Contender, batch: Any = batch) -> dict[str, float]:
                    ids, targets, seq_idx = (
                        None if t is None else t.to(self.device) for t in batch
                    )
                    seconds = self.timed(lambda: self.step(contender, ids, targets, seq_idx))
                    useful = int((batch[1] != IGNORED).sum())
                    return {"useful_tokens_per_second": useful / seconds, "useful_tokens": useful}

                yield case | self.attempt(CONTENDERS[name], self.scales[scale_name], measure)

    def tests(self) -> Iterator[dict[str, Any]]:
        """Run the tests that need a GPU."""
        return gpu_parts.tests(self)

    def decoding(self) -> Iterator[dict[str, Any]]:
        """Compare steps of generation with and without CUDA graphs."""
        return gpu_parts.decoding(self)

    def loss(self) -> Iterator[dict[str, Any]]:
        """Compare the kernels of the loss."""
        return gpu_parts.loss(self)

    def generation(self) -> Iterator[dict[str, Any]]:
        """Time a prompt of 2,048 tokens and the tokens that follow it, greedily, in bf16."""
        prompt_tokens, new_tokens = (32, 4) if self.is_tiny else (2_048, 64)
        for scale_name, scale in self.scales.items():
            for name, make in CONTENDERS.items():
                for rows in (1, 16):
                    case = {"scale": scale_name, "model": name, "rows": rows}
                    ids = torch.randint(200, (rows, prompt_tokens), device=self.device)

                    def measure(c: Contender, ids: Tensor = ids) -> dict[str, float]:
                        return self.generation_of(c, ids, new_tokens)

                    yield case | self.attempt(make, scale, measure)

    @torch.no_grad()
    def generation_of(
        self, contender: Contender, prompt: Tensor, new_tokens: int
    ) -> dict[str, float]:
        """Return the rates of prompt and new tokens; the prompt is timed with one new token."""
        decode = contender.decode
        if decode is None:
            raise NotImplementedError("does not generate")
        contender.model.eval()
        with self.autocast():
            first = self.timed(lambda: decode(prompt, 1), least_repeats=2)
            whole = self.timed(lambda: decode(prompt, 1 + new_tokens), least_repeats=2)
        rows = len(prompt)
        return {
            "prompt_tokens_per_second": prompt.numel() / first,
            "new_tokens_per_second": rows * new_tokens / max(whole - first, 1e-9),
        } | self.peak_memory()

    def step(
        self, contender: Contender, ids: Tensor, targets: Tensor, seq_idx: Tensor | None
    ) -> None:
        """Make one forward and backward pass."""
        with self.autocast():
            loss = contender.loss(ids, targets, seq_idx)
        loss.backward()
        contender.model.zero_grad(set_to_none=True)

    def autocast(self) -> torch.autocast:
        """Compute products in bf16."""
        return torch.autocast(self.device, dtype=torch.bfloat16)

    def attempt(
        self,
        make: Callable[[Scale], Contender],
        scale: Scale,
        measure: Callable[[Contender], dict[str, float]],
    ) -> dict[str, Any]:
        """Build, measure and free a contender, or return why that failed."""
        try:
            return dict(measure(build_on(self.device, make, scale)))
        except Exception as error:  # noqa: BLE001 (one case must not end the others)
            return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        finally:
            gc.collect()
            if self.is_cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()

    def timed(self, work: Callable[[], Any], least_repeats: int = 3) -> float:
        """Return the median seconds of some repeats after two to warm up."""
        for _ in range(2):
            work()
        seconds: list[float] = []
        while len(seconds) < least_repeats or (sum(seconds) < 1 and len(seconds) < 20):
            self.wait()
            begin = time.perf_counter()
            work()
            self.wait()
            seconds.append(time.perf_counter() - begin)
        return sorted(seconds)[len(seconds) // 2]

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def peak_memory(self) -> dict[str, float]:
        """Return the largest memory since the last contender was freed."""
        if not self.is_cuda:
            return {}
        return {"peak_gigabytes": torch.cuda.max_memory_allocated() / 1e9}


def document_lengths(total: int, most: int) -> list[int]:
    """Draw lengths of documents, about a third of a row, until they fill so many tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths: list[int] = []
    while sum(lengths) < total:
        drawn = torch.empty(1).log_normal_(0, 0.8, generator=generator).item() * most / 4
        lengths.append(max(2, min(most, round(drawn))))
    return lengths


def packed_batch(lengths: list[int], rows: int, row_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lay documents end to end, the last of a row cut: ids, targets and seq_idx."""
    numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    seq_idx = numbers[: rows * row_tokens].view(rows, row_tokens)
    seq_idx = (seq_idx - seq_idx[:, :1]).int()
    ids = torch.randint(200, (rows, row_tokens))
    return ids, ids.roll(-1, 1), seq_idx


def padded_batch(lengths: list[int], rows: int, row_tokens: int) -> tuple[Tensor, Tensor, None]:
    """Give every row one document and padding."""
    ids = torch.randint(200, (rows, row_tokens))
    targets = ids.roll(-1, 1)
    for row, length in enumerate(lengths[:rows]):
        targets[row, length:] = IGNORED
    return ids, targets, None


def main() -> None:
    """Install what was carried, measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--sizes", nargs="+", default=DEFAULT_SIZES, choices=list(SCALES))
    parser.add_argument("--wheels", type=Path, help="wheel of mamba-ssm, source of causal-conv1d")
    parser.add_argument("--budget-seconds", type=float, default=510)
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    options = parser.parse_args()
    benchmark = Benchmark(options)
    if options.wheels:
        benchmark.results["installed"] = install(
            options.wheels, Path(tempfile.mkdtemp(prefix="kernels-"))
        )
    benchmark.run()


if __name__ == "__main__":
    main()
