"""The Mamba-1 mixer: projection, convolution, selective scan, gate, projection.

Letters and shapes: see `biomamba.model.ssd`.
Source: arXiv 2312.00752, section 3.4 and Figure 3;
state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba_simple.py.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biomamba.model.config import Mamba1Config
from biomamba.model.conv import CausalConv1d
from biomamba.model.mamba2 import LayerState
from biomamba.model.ssd import ScanBackend, state_dtype


class Mamba1Mixer(nn.Module):
    """Projection, convolution, selective scan, gate, projection.

    With a static dt there is no dt_proj but `dt_bias` (channels,), its bias; with a static B or C a
    parameter `B` or `C` (channels, d_state): Algorithm 1 of the paper in place of Algorithm 2.

    Deviation: only the convolution and dt_proj have a bias, as in every published checkpoint.
    """

    def __init__(self, config: Mamba1Config, backend: ScanBackend) -> None:
        super().__init__()
        self.config = config
        self.backend = backend
        inner, state = config.d_inner, config.d_state
        self.in_proj = nn.Linear(config.d_model, 2 * inner, bias=False)
        self.conv1d = CausalConv1d(inner, config.d_conv, backend)
        self.x_proj, self.dt_proj = None, None
        if config.x_proj_sizes:
            self.x_proj = nn.Linear(inner, sum(config.x_proj_sizes.values()), bias=False)
        if "dt" in config.static:
            self.dt_bias = nn.Parameter(torch.empty(inner))
        else:
            self.dt_proj = StepProjection(config.step_rank, inner)
        for name in config.static_maps:
            self.register_parameter(name, nn.Parameter(torch.empty(inner, state)))
        self.A_log = nn.Parameter(torch.empty(inner, state))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, config.d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set A and D, draw dt and the output projection as mamba_ssm does.

        A is that of S4D-Real: -1, -2, ... -d_state in every channel; so are B and C if they are
        static: ones, and normally distributed.
        Source: state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba_simple.py and
        mamba_ssm/models/mixer_seq_simple.py (out_proj scaled by 1/sqrt(n_layer));
        arXiv 2206.11893 (S4D).
        """
        config = self.config
        self.A_log.copy_(torch.arange(1, config.d_state + 1).log().expand_as(self.A_log))
        self.D.fill_(1.0)
        if "B" in config.static:
            self.get_parameter("B").fill_(1.0)
        if "C" in config.static:
            self.get_parameter("C").normal_()
        if self.dt_proj is not None:
            size = config.dt_scale / math.sqrt(config.step_rank)
            lowest = size if config.dt_init == "constant" else -size
            self.dt_proj.weight.uniform_(lowest, size)
        bias = self.dt_bias if self.dt_proj is None else self.dt_proj.bias
        dt = torch.empty_like(bias).uniform_(math.log(config.dt_min), math.log(config.dt_max))
        dt = dt.exp().clamp(min=config.dt_init_floor)
        bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))
        self.out_proj.weight.div_(math.sqrt(config.n_layer))

    def forward(
        self, u: Tensor, documents: Tensor | None = None, state: LayerState | None = None
    ) -> tuple[Tensor, LayerState]:
        """Mix u (batch, length, d_model); return the output and the state after the length."""
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x, conv_state = self.conv1d(x, documents, None if state is None else state.conv)
        dt, B, C = self._project(x)
        y, ssm_state = self.backend.selective_scan(
            x,
            dt,
            self._decay_rate(),
            B,
            C,
            seq_idx=documents,
            initial_state=None if state is None else state.ssm,
        )
        return self._finish(y, x, z), LayerState(conv_state, ssm_state)

    def step(self, u: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Mix one further position u (batch, d_model)."""
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x, conv_state = self.conv1d.step(x, state.conv)
        dt, B, C = self._project(x)
        B, C = (t.to(dt.dtype) for t in (B, C))
        B = B.unsqueeze(-2) if "B" in self.config.selective_maps else B  # for all channels
        C = C.unsqueeze(-2) if "C" in self.config.selective_maps else C
        decay = torch.exp(dt.unsqueeze(-1) * self._decay_rate())
        ssm = torch.addcmul((dt * x).unsqueeze(-1) * B, decay, state.ssm)
        y = (ssm * C).sum(-1).to(x.dtype)
        return self._finish(y, x, z), LayerState(conv_state, ssm)

    def initial_state(self, batch_size: int) -> LayerState:
        """Return the empty state before the first position."""
        config, weight = self.config, self.in_proj.weight
        conv = weight.new_zeros(batch_size, config.d_inner, config.d_conv)
        shape = (batch_size, config.d_inner, config.d_state)
        return LayerState(conv, weight.new_zeros(shape, dtype=state_dtype(weight)))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return dt (..., channels), in the dtype of states, B and C.

        These are (..., d_state) of each position, or (channels, d_state) if static.
        """
        found: dict[str, Tensor] = {}
        if self.x_proj is not None:
            sizes = self.config.x_proj_sizes
            parts = torch.split(self.x_proj(x), list(sizes.values()), dim=-1)
            found = dict(zip(sizes, parts, strict=True))
        if self.dt_proj is None:
            dt = F.softplus(self.dt_bias.to(state_dtype(x))).expand_as(x)
        else:
            dt = F.softplus(self.dt_proj(found["dt"]))
        B, C = (found[n] if n in found else self.get_parameter(n) for n in ("B", "C"))
        return dt, B, C

    def _decay_rate(self) -> Tensor:
        return -torch.exp(self.A_log.to(state_dtype(self.A_log)))

    def _finish(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        y = torch.addcmul(y, x, self.D.to(x.dtype))
        output: Tensor = self.out_proj(y * F.silu(z))
        return output


class StepProjection(nn.Linear):
    """A linear map whose bias is added in the dtype of states.

    The biases are near log(dt), so rounded to half precision they would change dt by a percent.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)

    def forward(self, dt: Tensor) -> Tensor:
        """Return the step sizes before the softplus, float32 or float64."""
        product = F.linear(dt, self.weight)
        wide = state_dtype(product)
        return product.to(wide) + self.bias.to(wide)
