"""Sections of gpu.py that look at single parts: tests, recorded steps, kernels of the loss."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from gpu_models import IGNORED, Contender, Scale, ours
from torch import Tensor

from biomamba.model.backends.auto import AutoScan
from biomamba.model.cuda_graphs import Capture, CudaCapture, GraphedDecoder
from biomamba.model.decoder import Decoder
from biomamba.model.language_model import MambaLM
from biomamba.model.loss import LOSS_KERNELS, loss_of

CHECKOUT = Path(__file__).resolve().parents[1]
TESTS_SECONDS = 90.0


class Measuring(Protocol):
    """What a section needs of the benchmark."""

    device: str
    is_cuda: bool
    is_tiny: bool
    scales: dict[str, Scale]

    def attempt(
        self,
        make: Callable[[Scale], Contender],
        scale: Scale,
        measure: Callable[[Contender], dict[str, float]],
    ) -> dict[str, Any]:
        """Build, measure and free a contender, or return why that failed."""
        ...

    def timed(self, work: Callable[[], Any], least_repeats: int = 3) -> float:
        """Return the median seconds of some repeats."""
        ...

    def peak_memory(self) -> dict[str, float]:
        """Return the largest memory since the last contender was freed."""
        ...

    def autocast(self) -> torch.autocast:
        """Compute products in bf16."""
        ...


def gpu_name(is_cuda: bool) -> dict[str, Any]:
    """Describe the card and its software."""
    if not is_cuda:
        return {"name": "none"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "gigabytes": properties.total_memory / 1e9,
        "capability": [properties.major, properties.minor],
        "cuda": torch.version.cuda,
    }


def tests(benchmark: Measuring) -> Iterator[dict[str, Any]]:
    """Run the tests that need a GPU; without one, name them."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["tests/model"] if benchmark.is_cuda else ["--collect-only", "tests/model"]
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env=environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=TESTS_SECONDS,
        )
    except subprocess.TimeoutExpired:
        yield {"failed": f"not done in {TESTS_SECONDS:.0f} seconds"}
        return
    yield {
        "code": done.returncode,
        "end": done.stdout.strip().splitlines()[-20:],
        "seconds": time.perf_counter() - begin,
    }


def environment() -> dict[str, str]:
    """Return the environment, with the folders from which this process imports."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def decoding(benchmark: Measuring) -> Iterator[dict[str, Any]]:
    """Time a step of generation with and without a CUDA graph, and compare the logits."""
    for scale_name, scale in benchmark.scales.items():
        for rows in (1, 4) if benchmark.is_tiny else (1, 16, 12):
            for dtype in (None, torch.bfloat16):
                case = {"scale": scale_name, "rows": rows, "products": str(dtype or torch.float32)}

                def measure(
                    contender: Contender, rows: int = rows, dtype: torch.dtype | None = dtype
                ) -> dict[str, float]:
                    return _steps(benchmark, contender, rows, dtype)

                yield case | benchmark.attempt(lambda s: ours(s, AutoScan()), scale, measure)


@torch.no_grad()
def _steps(
    benchmark: Measuring, contender: Contender, rows: int, dtype: torch.dtype | None
) -> dict[str, float]:
    model = contender.model
    assert isinstance(model, MambaLM)
    capture: Capture = CudaCapture() if benchmark.is_cuda else _as_it_is
    plain = Decoder(model, dtype)
    graphed = GraphedDecoder(model, dtype, capture=capture, is_required=True)
    ids = torch.randint(200, (8, rows), device=benchmark.device)
    states = model.hidden(ids[:4].t())[1]
    begin = time.perf_counter()
    graphed.load(states)
    found = {"record_seconds": time.perf_counter() - begin}
    plain.load(states)
    differences, largest = [], 0.0
    for position in range(4, 8):
        expected, actual = plain.step(ids[position]), graphed.step(ids[position])
        differences.append(float((expected - actual).abs().max()))
        largest = max(largest, float(expected.abs().max()))
    found |= {"largest_difference": max(differences), "largest_logit": largest}
    for name, decoder in (("plain", plain), ("graph", graphed)):
        found[f"{name}_step_seconds"] = benchmark.timed(lambda d=decoder: d.step(ids[0]))
    return found | benchmark.peak_memory()


def _as_it_is(work: Callable[[], None], device: torch.device) -> Callable[[], object]:  # noqa: ARG001
    """Record nothing: try the program itself on a CPU."""
    return work


def loss(benchmark: Measuring) -> Iterator[dict[str, Any]]:
    """Time the loss with its gradients by each kernel, in bf16 autocast, and compare the sums."""
    rows = 256 if benchmark.is_tiny else 8_192
    for scale_name, scale in benchmark.scales.items():
        for kernel in LOSS_KERNELS:
            case = {"scale": scale_name, "rows": rows, "kernel": kernel}

            def measure(contender: Contender, kernel: str = kernel) -> dict[str, float]:
                return _loss(benchmark, contender, rows, kernel)

            yield case | benchmark.attempt(lambda s: ours(_of_one_layer(s), None), scale, measure)


def _of_one_layer(scale: Scale) -> Scale:
    """Return a model whose memory is mostly its head."""
    return replace(scale, n_layer=1)


def _loss(benchmark: Measuring, contender: Contender, rows: int, kernel: str) -> dict[str, float]:
    model = contender.model
    assert isinstance(model, MambaLM)
    torch.manual_seed(0)
    weight, vocab = model.head_weight, model.config.vocab_size
    hidden = torch.randn(rows, weight.shape[1], device=benchmark.device).bfloat16()
    targets = torch.randint(vocab, (rows,), device=benchmark.device)
    targets[::50] = IGNORED
    total = torch.zeros(())

    def work() -> None:
        nonlocal total
        leaf: Tensor = hidden.detach().requires_grad_()
        weight.grad = None
        with benchmark.autocast():
            total = loss_of(kernel)(leaf, weight, targets)
        total.backward()

    seconds = benchmark.timed(work)
    assert weight.grad is not None
    found = {"seconds": seconds, "nll_sum": float(total), "grad_norm": float(weight.grad.norm())}
    return found | benchmark.peak_memory()
