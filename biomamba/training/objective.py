"""What a step of training minimises, and within which limits."""

from dataclasses import dataclass

from biomamba.model.fused_loss import LOSS_KERNELS
from biomamba.model.segments import Segments
from biomamba.runtime.numbers import check_number, check_whole
from biomamba.training.gradients import SUM_DTYPES
from biomamba.training.step_guard import SpikeDetection


@dataclass(frozen=True)
class Objective:
    """Limits of a step.

    max_grad_norm clips the global gradient norm. A step whose loss or gradient is not finite on any
    rank is skipped on all (a loss scaler then halves its scale, too); after max_skipped_steps of
    them in a row the run stops. spikes, if given, finds the steps that stand out. With
    segment_tokens a row is trained in segments of so many positions, by truncated back-propagation
    through time (segment_state: see Segments): memory does not grow with the row. gradient_sums is
    the precision in which gradients of micro-batches and ranks are added: in float64 (8 bytes more
    per parameter) the result does not depend on the number of ranks, also in bf16-mixed.
    loss_kernel computes the loss: chunked, anywhere, or liger, by a kernel for NVIDIA GPUs.
    """

    max_grad_norm: float = 1.0
    max_skipped_steps: int = 20
    spikes: SpikeDetection | None = None
    segment_tokens: int | None = None
    segment_state: str = "reset"
    gradient_sums: str = "float32"
    loss_kernel: str = "chunked"

    def __post_init__(self) -> None:
        check_number("max_grad_norm", self.max_grad_norm, above=0)
        check_whole("max_skipped_steps", self.max_skipped_steps)
        if self.gradient_sums not in SUM_DTYPES:
            names = " or ".join(SUM_DTYPES)
            raise ValueError(f"gradient_sums must be {names}, got {self.gradient_sums!r}")
        if self.loss_kernel not in LOSS_KERNELS:
            names = " or ".join(LOSS_KERNELS)
            raise ValueError(f"loss_kernel must be {names}, got {self.loss_kernel!r}")
        Segments.of(self.segment_tokens, self.segment_state)
