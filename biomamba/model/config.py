"""The shape of a Mamba2 language model.

Field names are those of the state-spaces checkpoints (`config.json` and its `ssm_cfg`), so that a
published configuration can be compared field by field. Letters of the paper stand behind each size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Mamba2Config:
    """Sizes and initialisation of a Mamba2 language model.

    Source: arXiv 2405.21060, section 7 (block) and appendix D.2 (scales);
    state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py (defaults).

    Raises:
        ValueError: A field has a value that no model can have; the message names the field.
    """

    d_model: int
    """Width of the residual stream."""
    n_layer: int
    """Number of blocks."""
    vocab_size: int
    """Number of token ids in use, before padding."""
    d_state: int = 128  # N
    """Size of the state per head channel."""
    d_conv: int = 4
    """Taps of the causal convolution."""
    expand: int = 2  # E
    """Ratio of inner width to d_model."""
    headdim: int = 64  # P
    """Channels per head."""
    ngroups: int = 1  # G
    """Groups of heads that share one B and C."""
    chunk_size: int = 256  # Q
    """Chunk length the checkpoint was trained with; results do not depend on it."""
    norm_eps: float = 1e-5
    """Term under the root of every RMSNorm."""
    pad_vocab_size_multiple: int = 16
    """Rows of the embedding are rounded up to a multiple of this."""
    tie_embeddings: bool = True
    """Whether the head reuses the embedding matrix."""
    residual_in_fp32: bool = True
    """Whether the residual stream is at least float32 when the weights are narrower."""
    rms_norm: bool = True
    """RMSNorm before each block; LayerNorm is not implemented, so it must be True."""
    A_init_range: Sequence[float] = (1.0, 16.0)
    """Bounds of the uniform distribution of -A at initialisation."""
    dt_min: float = 0.001
    """Lower bound of the step size dt at initialisation."""
    dt_max: float = 0.1
    """Upper bound of the step size dt at initialisation."""
    dt_init_floor: float = 1e-4
    """Smallest step size dt at initialisation, whatever dt_min is."""
    initializer_range: float = 0.02
    """Standard deviation of the embedding at initialisation."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "A_init_range", tuple(float(bound) for bound in self.A_init_range))
        self._check_sizes()
        self._check_initialisation()
        if not self.rms_norm:
            raise ValueError("rms_norm=False: only RMSNorm models are implemented; set it to True")

    def _check_sizes(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{field.name}={value!r}: must be an integer")
            if field.type is int and value < 1:
                raise ValueError(f"{field.name}={value}: must be at least 1")
        if self.d_inner % self.headdim:
            raise ValueError(
                f"headdim={self.headdim}: must divide d_inner = expand * d_model = "
                f"{self.expand} * {self.d_model} = {self.d_inner}"
            )
        if self.nheads % self.ngroups:
            raise ValueError(
                f"ngroups={self.ngroups}: must divide the number of heads, d_inner / headdim = "
                f"{self.d_inner} / {self.headdim} = {self.nheads}"
            )

    def _check_initialisation(self) -> None:
        for name in ("norm_eps", "dt_min", "dt_max", "dt_init_floor", "initializer_range"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value}: must be positive and finite")
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min={self.dt_min}: must not exceed dt_max={self.dt_max}")
        bounds = self.A_init_range
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] < math.inf:
            raise ValueError(f"A_init_range={bounds}: must be two numbers, 0 < low <= high")

    @property
    def d_inner(self) -> int:
        """Width inside a block."""
        return self.expand * self.d_model

    @property
    def nheads(self) -> int:
        """Number of heads (H) of a block."""
        return self.d_inner // self.headdim

    @property
    def conv_channels(self) -> int:
        """Channels that pass the convolution: x, B and C."""
        return self.d_inner + 2 * self.ngroups * self.d_state

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and of the head."""
        multiple = self.pad_vocab_size_multiple
        return math.ceil(self.vocab_size / multiple) * multiple

    def num_parameters(self) -> int:
        """Count the trainable numbers of the model; a tied head counts once."""
        in_proj = self.d_model * (self.d_inner + self.conv_channels + self.nheads)
        conv = self.conv_channels * (self.d_conv + 1)  # weight and bias
        per_head = 3 * self.nheads  # A_log, D, dt_bias
        out_proj = self.d_inner * self.d_model
        layer = in_proj + conv + per_head + out_proj + self.d_inner + self.d_model  # two norms
        embedding = self.padded_vocab_size * self.d_model
        heads = 1 if self.tie_embeddings else 2
        return self.n_layer * layer + heads * embedding + self.d_model  # last norm
