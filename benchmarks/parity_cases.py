"""How far a backend is from the recurrence in float64, on the same rounded inputs.

Needs torch and the model package only; `python parity_cases.py --interpreted` prints the figures of
the interpreted kernels as JSON, in the environment of `make test-interpreter`.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.backends.fused import FusedScan
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.ssd import ScanBackend
from biomamba.runtime.errors import MissingDependencyError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
GRADIENTS = ("x", "dt", "A", "B", "C", "initial_state")


@dataclass(frozen=True)
class Sizes:
    """Shape of the inputs; `boundaries` are the first positions of further documents."""

    batch: int
    length: int
    heads: int
    headdim: int
    d_state: int
    boundaries: tuple[int, ...]


# Edges of chunks of 64 and 256, neighbors of them, documents of one position.
USUAL = Sizes(1, 300, 2, 16, 32, (1, 64, 100, 101, 256))
INTERPRETED = Sizes(1, 40, 2, 8, 16, (1, 16, 19, 33))


@dataclass(frozen=True)
class Parity:
    """Largest differences of one case: absolute, and relative to the largest value."""

    backend: str
    model: str
    dtype: str
    packed: bool
    output: tuple[float, float]
    final_state: tuple[float, float]
    gradients: tuple[float, float]
    worst_gradient: str


def measure_parity(
    backends: Sequence[ScanBackend], dtypes: Sequence[torch.dtype], sizes: Sizes, device: str
) -> Iterator[Parity]:
    """Yield every backend, model and dtype, without and with boundaries."""
    for model in ("mamba2", "mamba1"):
        for dtype in dtypes:
            for packed in (False, True):
                inputs = _inputs(model, sizes, dtype, device)
                documents = _documents(sizes, device) if packed else None
                wide = [t.detach().double().requires_grad_() for t in inputs]
                expected = _results(ReferenceScan(), model, wide, documents)
                for backend in backends:
                    if not _covers(backend, model, dtype):
                        continue
                    actual = _results(backend, model, inputs, documents)
                    yield _compare((backend.name, model, _name(dtype), packed), actual, expected)


def _covers(backend: ScanBackend, model: str, dtype: torch.dtype) -> bool:
    if backend.name != "fused":
        return True
    is_interpreted = not torch.cuda.is_available()
    # The interpreter multiplies the bits of bfloat16 as integers.
    missing = {torch.float64, torch.bfloat16} if is_interpreted else {torch.float64}
    return model == "mamba2" and dtype not in missing


def _inputs(model: str, sizes: Sizes, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Return x, dt, A, B, C and the initial state; x, B and C in `dtype`, as under autocast."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    batch, length, heads, n = sizes.batch, sizes.length, sizes.heads, sizes.d_state
    if model == "mamba2":
        rows, maps = (heads, sizes.headdim), (1, n)
        dt, A = randn(batch, length, heads), randn(heads)
    else:
        rows, maps, n = (heads * sizes.headdim,), (min(n, 16),), min(n, 16)
        dt, A = randn(batch, length, *rows), randn(*rows, n)
    tensors = [
        randn(batch, length, *rows).to(dtype),
        (dt.exp() * 0.05).to(wide),
        -A.exp().to(wide),
        randn(batch, length, *maps).to(dtype),
        randn(batch, length, *maps).to(dtype),
        randn(batch, *rows, n).to(wide),
    ]
    return [t.to(device).requires_grad_() for t in tensors]


def _documents(sizes: Sizes, device: str) -> Tensor:
    row = torch.zeros(sizes.length, dtype=torch.int32)
    row[list(sizes.boundaries)] = 1
    return row.cumsum(0, dtype=torch.int32).expand(sizes.batch, -1).to(device)


def _results(
    backend: ScanBackend, model: str, inputs: list[Tensor], documents: Tensor | None
) -> list[Tensor]:
    scan = backend.scan if model == "mamba2" else backend.selective_scan
    y, final = scan(*inputs[:5], seq_idx=documents, initial_state=inputs[5])
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=generator).to(t.device) for t in (y, final)]
    loss = (y.double() * weights[0]).sum() + (final.double() * weights[1]).sum()
    return [y, final, *torch.autograd.grad(loss, inputs)]


def _compare(
    case: tuple[str, str, str, bool], actual: list[Tensor], expected: list[Tensor]
) -> Parity:
    errors = [
        (float(difference := (a.double() - e).abs().max()), float(difference / e.abs().max()))
        for a, e in zip((t.detach() for t in actual), (t.detach() for t in expected), strict=True)
    ]
    gradients = dict(zip(GRADIENTS, errors[2:], strict=True))
    worst = max(gradients, key=lambda name: gradients[name][1])
    return Parity(*case, errors[0], errors[1], gradients[worst], worst)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def usual_backends(device: str) -> list[ScanBackend]:
    """Return the backends that run on a device."""
    backends: list[ScanBackend] = [ReferenceScan(), ChunkedScan()]
    if device == "cuda":
        try:
            backends.append(FusedScan())
        except MissingDependencyError as error:
            print(f"without the fused backend: {error}")
    return backends


def main() -> None:
    """Print the figures of the interpreted kernels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interpreted", action="store_true", required=True)
    parser.parse_args()
    from interpreted_kernels import interpret

    interpret()
    found = measure_parity([FusedScan(16)], DTYPES, INTERPRETED, "cpu")
    print(json.dumps([asdict(parity) for parity in found]))


if __name__ == "__main__":
    main()
