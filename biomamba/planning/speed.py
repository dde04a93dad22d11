"""How many tokens a second a run makes: measured by a probe, or assumed and called so.

A token is a position of a row, padding included, as in the budget.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from biomamba.model.operations import scan_operations
from biomamba.planning.hardware import Hardware
from biomamba.planning.settings import RunSettings

MEASURED, ASSUMED, UNKNOWN = "measured", "assumed", "unknown"
_TRAINING, _AGAIN = 3, 1  # forward and twice as much backward; forward again where checkpointed


@dataclass(frozen=True)
class Rate:
    """Tokens per second of all ranks.

    Attributes:
        kind: `measured`, `assumed` or `unknown`.
        source: Where the number comes from, in words.
        tokens_per_second: None if unknown.
        low: Slowest step of a probe; None if nothing was measured.
        high: Fastest step of a probe.
    """

    kind: str
    source: str
    tokens_per_second: float | None
    low: float | None = None
    high: float | None = None


def operations_per_token(run: RunSettings) -> int:
    """Count the operations of a training step per position: products with weights, and the scan.

    A product with a matrix of n numbers takes 2 n forward and 4 n backward. A head tied to the
    embedding counts once; looking up an embedding costs nothing.
    """
    config = run.model
    table = config.padded_vocab_size * config.d_model
    blocks = run.parameters.total_numel - table * (1 if config.tie_embeddings else 2)
    forward = 2 * blocks + config.n_layer * scan_operations(config, run.micro_batch().chunk)
    again = _AGAIN if run.layout.activation_checkpointing else 0
    return (_TRAINING + again) * forward + _TRAINING * 2 * table


def assumed_rate(run: RunSettings, hardware: Hardware) -> Rate:
    """Return peak times assumed utilisation over operations; no rate where either is not known."""
    peak = hardware.peak_tflops.get(run.precision)
    part = hardware.assumed_utilisation.get(run.backend)
    if peak is None or part is None:
        lacking = f"peak in {run.precision}" if peak is None else f"utilisation of {run.backend}"
        return Rate(UNKNOWN, f"no {lacking} is known of this hardware; probe=true measures", None)
    rate = hardware.world_size * peak * 1e12 * part / operations_per_token(run)
    source = (
        f"ASSUMPTION, nothing measured: {part:.0%} of the {peak:g} TFLOP/s in {run.precision} that "
        f"the maker states, on {hardware.world_size} devices with backend={run.backend}"
    )
    return Rate(ASSUMED, source, rate)


def measured_rate(tokens: int, seconds: Sequence[float], where: str) -> Rate:
    """Return the rate of the median step of a probe, with those of its slowest and fastest step.

    Raises:
        ValueError: There are no steps.
    """
    if not seconds:
        raise ValueError("a rate needs at least one step")
    return Rate(
        MEASURED,
        f"{len(seconds)} training steps on {where}; random weights and documents, no waiting for "
        "data",
        tokens / statistics.median(seconds),
        tokens / max(seconds),
        tokens / min(seconds),
    )
