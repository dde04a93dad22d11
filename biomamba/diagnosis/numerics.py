"""Whether the numbers of this machine are right: backends, documents, batches, fp16."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from biomamba.diagnosis.machine import Finding, ok, problem
from biomamba.model.backends.auto import AutoScan, choice_of
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.backends.fused import FusedScan
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.config import Mamba2Config
from biomamba.model.isolation_probe import probe_isolation
from biomamba.model.language_model import MambaLM
from biomamba.model.ssd import ScanBackend
from biomamba.runtime.errors import BioMambaError, MissingDependencyError

_REMEDY = "set backend=chunked; if that one fails too, install the pinned torch"
# Relative to the largest value: some five times what docs/backends.md shows. Fused kernels
# multiply float32 as TF32.
_BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 5e-2, torch.float16: 2e-2}
_TF32_BOUND = 1e-2
_LENGTH, _BOUNDARIES = 130, (1, 64, 100)
# A = -exp(11.5) = -98,716 and steps of about 12 are beyond what fp16 can hold.
_LARGE_A_LOG, _LARGE_STEP = 11.5, 12.0


def check_parity(device: torch.device, dtype: torch.dtype) -> Iterator[Finding]:
    """Compare every backend that can run here with the recurrence in float64."""
    inputs = _inputs()
    expected = _results(ReferenceScan(), [tensor.double() for tensor in inputs])
    for backend in _backends(device):
        for precision in dict.fromkeys((torch.float32, dtype)):
            yield _parity(backend, inputs, expected, device, precision)


def _parity(
    backend: ScanBackend,
    inputs: list[Tensor],
    expected: list[Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> Finding:
    narrow = {0, 3, 4}  # x, B and C are in the dtype of products, as under autocast
    own = [t.to(device, dtype if i in narrow else torch.float32) for i, t in enumerate(inputs)]
    rounded = [tensor.double().cpu() for tensor in own]
    if dtype != torch.float32:  # what rounding the inputs makes is no fault of a backend
        expected = _results(ReferenceScan(), rounded)
    found = _results(backend, own)
    errors = [_relative(a, e) for a, e in zip(found, expected, strict=True)]
    is_tf32 = backend.name == "fused" and dtype == torch.float32
    bound = _TF32_BOUND if is_tf32 else _BOUNDS[dtype]
    text = (
        f"{backend.name} in {_name(dtype)} on {device.type}: outputs within {errors[0]:.1e} of the "
        f"recurrence in float64, gradients within {max(errors[1:]):.1e} (allowed {bound:.0e})"
    )
    if max(errors) <= bound:  # nan is not
        return ok("parity", text)
    return problem("parity", text, _REMEDY)


def check_isolation(device: torch.device, dtype: torch.dtype) -> Iterator[Finding]:
    """Prove that packed documents do not reach each other, as train does before its first step."""
    try:
        found = probe_isolation(_model(device), device, dtype)
    except BioMambaError as error:
        yield problem("packed documents", str(error).split(";")[0], _REMEDY)
        return
    yield ok(
        "packed documents",
        f"apart with {found.backend} in {found.dtype}: outputs within {found.output_error:.1e} of "
        f"those of the documents alone, gradients within {found.gradient_error:.1e}",
    )


@torch.no_grad()
def check_batches(device: torch.device) -> Iterator[Finding]:
    """Compare a document alone with the same one in a batch, in float32."""
    model = _model(device)
    generator = torch.Generator().manual_seed(1)
    shape = (4, _LENGTH)
    ids = torch.randint(model.config.vocab_size, shape, generator=generator).to(device)
    together, alone = model(ids)[2], model(ids[2:3])[0]
    error = _relative(together, alone.double().cpu())
    name = choice_of(_backend_of(model), device, torch.float32).backend.name
    bound = _TF32_BOUND if name == "fused" else _BOUNDS[torch.float32]
    words = "bit for bit" if error == 0 else f"within {error:.1e}"
    text = f"a document alone and among three others give the same logits {words}"
    if error <= bound:
        yield ok("batch invariance", f"{text} (allowed {bound:.0e})")
    else:
        yield problem("batch invariance", f"{text} only (allowed {bound:.0e})", _REMEDY)


def check_fp16_range(device: torch.device) -> Iterator[Finding]:
    """Compute with steps and decays that fp16 cannot hold; all must stay finite."""
    model = _model(device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.fill_(_LARGE_A_LOG)
            elif name.endswith("dt_bias"):
                parameter.fill_(_LARGE_STEP)
    ids = torch.arange(_LENGTH, device=device).unsqueeze(0) % model.config.vocab_size
    with torch.autocast(device.type, dtype=torch.float16):
        hidden, _ = model.hidden(ids)
        torch.autograd.backward(hidden.float().square().mean())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    is_finite = all(bool(tensor.isfinite().all()) for tensor in (hidden, *gradients))
    text = f"A = -exp({_LARGE_A_LOG}) and steps of {_LARGE_STEP:g} under fp16"
    if is_finite:
        yield ok("fp16 range", f"{text}: outputs and gradients stay finite")
    else:
        yield problem("fp16 range", f"{text}: not finite", "train in bf16-mixed or 32-true")


def _backends(device: torch.device) -> Iterator[ScanBackend]:
    yield ChunkedScan()
    if device.type == "cuda":
        try:
            yield FusedScan()
        except MissingDependencyError:
            return


def _model(device: torch.device) -> MambaLM:
    """Build a small model with the backend that a run would take, always the same numbers."""
    config = Mamba2Config(d_model=64, n_layer=2, vocab_size=64, d_state=32, headdim=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MambaLM(config, AutoScan()).to(device)


def _backend_of(model: MambaLM) -> ScanBackend:
    backend: ScanBackend = model.backbone.blocks()[0].mixer.backend
    return backend


def _inputs() -> list[Tensor]:
    """Return x, dt, A, B and C in float32: a row of 130 positions, two heads of 16, state 32."""
    randn = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    dt, A = randn(1, _LENGTH, 2).exp() * 0.05, -randn(2).exp()
    maps = [randn(1, _LENGTH, 1, 32) for _ in range(2)]
    return [randn(1, _LENGTH, 2, 16), dt, A, *maps]


def _results(backend: ScanBackend, inputs: list[Tensor]) -> list[Tensor]:
    """Return the output and the gradients of its weighted sum for each input."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    documents = torch.zeros(1, _LENGTH, dtype=torch.int32)
    documents[0, list(_BOUNDARIES)] = 1
    documents = documents.cumsum(1, dtype=torch.int32).to(leaves[0].device)
    y, _ = backend.scan(*leaves, seq_idx=documents)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    gradients = torch.autograd.grad((y * weights).sum(), leaves)
    return [y.detach(), *gradients]


def _relative(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    difference = (actual.double().cpu() - expected).abs().max()
    return float(difference / expected.abs().max())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
