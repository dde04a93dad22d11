"""The shape of a language model: what all have in common, Mamba-1 and Mamba2.

Field names are those of the state-spaces checkpoints (`config.json` and its `ssm_cfg`), so that a
published configuration can be compared field by field. Letters of the papers are after each
size.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from biomamba.runtime.numbers import check_number, check_whole

_SELECTIVE = ("dt", "B", "C")
# Far above every published model; a larger number is a mistake, and would take time and memory
# before any tensor is compared with it.
_LARGEST = {"n_layer": 1_024, "vocab_size": 1 << 26, "d_conv": 1_024, "expand": 1_024}
_LARGEST_SIZE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class MambaConfig(ABC):
    """What every model of the family has: sizes, embedding, norms, initialization of dt.

    Raises:
        ValueError: A field has a value that no model can have; the message names the field.
    """

    layer: ClassVar[str]
    """Name of the mixer, as in `ssm_cfg.layer`."""

    d_model: int
    """Width of the residual stream."""
    n_layer: int
    """Number of blocks."""
    vocab_size: int
    """Number of token ids in use, before padding."""
    d_state: int  # N
    """Size of the state per channel."""
    d_conv: int = 4
    """Taps of the causal convolution."""
    expand: int = 2  # E
    """Ratio of inner width to d_model."""
    norm_eps: float = 1e-5
    """Term under the root of every RMSNorm."""
    pad_vocab_size_multiple: int
    """Rows of the embedding are rounded up to a multiple of this."""
    tie_embeddings: bool = True
    """Whether the head reuses the embedding matrix."""
    residual_in_fp32: bool = True
    """Whether the residual stream is at least float32 when the weights are narrower."""
    rms_norm: bool = True
    """RMSNorm before each block; LayerNorm is not implemented, so it must be True."""
    dt_min: float = 0.001
    """Lower bound of the step size dt at initialization."""
    dt_max: float = 0.1
    """Upper bound of the step size dt at initialization."""
    dt_init_floor: float = 1e-4
    """Smallest step size dt at initialization, whatever dt_min is."""
    initializer_range: float = 0.02
    """Standard deviation of the embedding at initialization."""
    static: Sequence[str] = ()
    """Which of dt, B and C are learned constants instead of functions of the input."""

    def __post_init__(self) -> None:
        static = () if isinstance(self.static, str) else tuple(self.static)
        if isinstance(self.static, str) or not set(static) <= set(_SELECTIVE):
            raise ValueError(f"static={self.static!r}: must be a list of some of dt, B and C")
        object.__setattr__(self, "static", tuple(name for name in _SELECTIVE if name in static))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                check_whole(field.name, value, at_most=_LARGEST.get(field.name, _LARGEST_SIZE))
            elif field.type is float:
                check_number(field.name, value, above=0)
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min={self.dt_min}: must not exceed dt_max={self.dt_max}")
        if not self.rms_norm:
            raise ValueError("rms_norm=False: only RMSNorm models are implemented; set it to True")

    @property
    def d_inner(self) -> int:
        """Width inside a block."""
        return self.expand * self.d_model

    @property
    def selective_maps(self) -> list[str]:
        """Those of B and C that are functions of the input."""
        return [name for name in ("B", "C") if name not in self.static]

    @property
    def static_maps(self) -> list[str]:
        """Those of B and C that are learned constants."""
        return [name for name in ("B", "C") if name in self.static]

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and of the head."""
        multiple = self.pad_vocab_size_multiple
        return math.ceil(self.vocab_size / multiple) * multiple

    @property
    @abstractmethod
    def conv_channels(self) -> int:
        """Channels that pass the convolution."""

    @abstractmethod
    def mixer_parameters(self) -> int:
        """Count the trainable numbers of one mixer."""

    def num_parameters(self) -> int:
        """Count the trainable numbers of the model; a tied head counts once."""
        layer = self.mixer_parameters() + self.d_model  # the norm before it
        embedding = self.padded_vocab_size * self.d_model
        heads = 1 if self.tie_embeddings else 2
        return self.n_layer * layer + heads * embedding + self.d_model  # last norm


@dataclass(frozen=True, kw_only=True)
class Mamba1Config(MambaConfig):
    """Sizes and initialization of a Mamba-1 language model.

    Source: arXiv 2312.00752, sections 3.4 (block) and E.2.1 (scales);
    state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba_simple.py (defaults).
    """

    layer: ClassVar[str] = "Mamba1"

    d_state: int = 16
    pad_vocab_size_multiple: int = 8
    dt_rank: int | str = "auto"  # R
    """Width of the bottleneck that dt passes; auto: d_model / 16, rounded up."""
    dt_init: str = "random"
    """How the weights of that projection start: random (uniform) or constant."""
    dt_scale: float = 1.0
    """Factor of their size at initialization."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.dt_rank, int):
            check_whole("dt_rank", self.dt_rank)
        elif self.dt_rank != "auto":
            raise ValueError(f"dt_rank={self.dt_rank!r}: must be auto or an integer")
        if self.dt_init not in ("random", "constant"):
            raise ValueError(f"dt_init={self.dt_init!r}: must be random or constant")

    @property
    def step_rank(self) -> int:
        """The width that dt_rank asks for."""
        return math.ceil(self.d_model / 16) if isinstance(self.dt_rank, str) else self.dt_rank

    @property
    def conv_channels(self) -> int:
        """Channels that pass the convolution: x alone."""
        return self.d_inner

    @property
    def x_proj_sizes(self) -> dict[str, int]:
        """What is projected from each position, and its width."""
        steps = {} if "dt" in self.static else {"dt": self.step_rank}
        return steps | dict.fromkeys(self.selective_maps, self.d_state)

    def mixer_parameters(self) -> int:
        """Count the trainable numbers of one mixer."""
        in_and_out = 3 * self.d_model
        conv = self.d_conv + 1  # weight and bias
        x_proj = sum(self.x_proj_sizes.values())
        dt_proj = 1 + self.x_proj_sizes.get("dt", 0)  # bias and weight
        static = self.d_state * len(self.static_maps)
        per_channel = in_and_out + conv + x_proj + dt_proj + static + self.d_state + 1  # A_log, D
        return self.d_inner * per_channel


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(MambaConfig):
    """Sizes and initialization of a Mamba2 language model.

    Source: arXiv 2405.21060, section 7 (block) and appendix D.2 (scales);
    state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py (defaults).
    """

    layer: ClassVar[str] = "Mamba2"

    d_state: int = 128
    pad_vocab_size_multiple: int = 16
    headdim: int = 64  # P
    """Channels per head."""
    ngroups: int = 1  # G
    """Groups of heads that share one B and C."""
    chunk_size: int = 256  # Q
    """Chunk length the checkpoint was trained with; results do not depend on it."""
    A_init_range: Sequence[float] = (1.0, 16.0)
    """Bounds of the uniform distribution of -A at initialization."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "A_init_range", tuple(float(bound) for bound in self.A_init_range))
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
        bounds = self.A_init_range
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] < math.inf:
            raise ValueError(f"A_init_range={bounds}: must be two numbers, 0 < low <= high")

    @property
    def nheads(self) -> int:
        """Number of heads (H) of a block."""
        return self.d_inner // self.headdim

    @property
    def conv_channels(self) -> int:
        """Channels that pass the convolution: x, B and C as far as they are selective."""
        return self.d_inner + len(self.selective_maps) * self.ngroups * self.d_state

    @property
    def in_proj_sizes(self) -> list[int]:
        """Widths of what is projected from each position: z, what is convolved, dt if selective."""
        steps = 0 if "dt" in self.static else self.nheads
        return [self.d_inner, self.conv_channels, steps]

    def mixer_parameters(self) -> int:
        """Count the trainable numbers of one mixer."""
        in_and_out = self.d_model * (sum(self.in_proj_sizes) + self.d_inner)
        conv = self.conv_channels * (self.d_conv + 1)  # weight and bias
        per_head = 3 * self.nheads  # A_log, D, dt_bias
        static = len(self.static_maps) * self.ngroups * self.d_state
        return in_and_out + conv + per_head + static + self.d_inner  # the gated norm
