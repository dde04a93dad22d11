"""The Mamba2 mixer: projection, convolution, scan, gated norm, projection.

Letters and shapes: see `biomamba.model.ssd`.
Source: arXiv 2405.21060, section 7; state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py.
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biomamba.model.config import Mamba2Config
from biomamba.model.conv import CausalConv1d
from biomamba.model.norm import GatedRMSNorm
from biomamba.model.ssd import MixerParts, MixingBackend, ScanBackend, state_dtype

# -------------------------------------------------------------------------------------------------
# What a block asks of its mixer, whichever model it belongs to.
# -------------------------------------------------------------------------------------------------


class LayerState(NamedTuple):
    """What one block remembers of the positions so far."""

    conv: Tensor  # (batch, channels, d_conv)
    ssm: Tensor  # see the glossary of biomamba.model.ssd; float32 or float64


class Mixer(Protocol):
    """Mixes the positions of a document, each with those before it only."""

    def __call__(
        self, u: Tensor, documents: Tensor | None = None, state: LayerState | None = None
    ) -> tuple[Tensor, LayerState]:
        """Mix u (batch, length, d_model); return the output and the state after the length.

        `documents` (batch, length) as of `document_numbers`: nothing passes where they change.
        `state` (None: empty) belongs to the document at position 0.
        """
        ...

    def step(self, u: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Mix one further position u (batch, d_model)."""
        ...

    def initial_state(self, batch_size: int) -> LayerState:
        """Return the empty state before the first position."""
        ...


# -------------------------------------------------------------------------------------------------
# The Mamba2 mixer: projection, convolution, scan, gated norm, projection.
# -------------------------------------------------------------------------------------------------


class Mamba2Mixer(nn.Module):
    """Projection, convolution, scan, gated norm, projection.

    A static dt is softplus(dt_bias); a static B or C is a parameter `B` or `C` (groups, d_state).
    With both static the state of a head is one running mean per channel, whatever d_state is,
    because A is the same in all its states.

    Deviation: dt_limit is fixed at (0, inf) and only the convolution has a bias, as in every
    published checkpoint.
    """

    def __init__(self, config: Mamba2Config, backend: ScanBackend) -> None:
        super().__init__()
        self.config = config
        self.backend = backend
        inner, heads = config.d_inner, config.nheads
        self.in_proj = nn.Linear(config.d_model, sum(config.in_proj_sizes), bias=False)
        self.conv1d = CausalConv1d(config.conv_channels, config.d_conv, backend)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))
        for name in config.static_maps:
            constant = nn.Parameter(torch.empty(config.ngroups, config.d_state))
            self.register_parameter(name, constant)
        self.norm = GatedRMSNorm(inner, config.norm_eps, config.ngroups)
        self.out_proj = nn.Linear(inner, config.d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw A, dt and the output projection as mamba_ssm does.

        Static B and C start as vectors of length 1 with equal entries.
        Source: state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py and
        mamba_ssm/models/mixer_seq_simple.py (out_proj scaled by 1/sqrt(n_layer)).
        """
        config = self.config
        self.A_log.uniform_(*config.A_init_range).log_()
        self.D.fill_(1.0)
        for name in config.static_maps:
            self.get_parameter(name).fill_(1 / math.sqrt(config.d_state))
        dt = torch.empty_like(self.dt_bias).uniform_(
            math.log(config.dt_min), math.log(config.dt_max)
        )
        dt = dt.exp().clamp(min=config.dt_init_floor)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))
        self.out_proj.weight.div_(math.sqrt(config.n_layer))

    def forward(
        self, u: Tensor, documents: Tensor | None = None, state: LayerState | None = None
    ) -> tuple[Tensor, LayerState]:
        """Mix u (batch, length, d_model); return the output and the state after the length."""
        projected = self.in_proj(u)
        mixed = self._mix_at_once(projected, documents) if state is None else None
        if mixed is not None:
            return mixed
        z, xBC, dt = self._parts(projected)
        xBC, conv_state = self.conv1d(xBC, documents, None if state is None else state.conv)
        x, B, C = self._split(xBC)
        y, ssm_state = self.backend.scan(
            x,
            self._step_size(dt),
            self._decay_rate(),
            B,
            C,
            seq_idx=documents,
            initial_state=None if state is None else state.ssm,
        )
        return self._finish(y, x, z), LayerState(conv_state, ssm_state)

    def step(self, u: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Mix one further position u (batch, d_model)."""
        z, xBC, dt = self._parts(self.in_proj(u))
        xBC, conv_state = self.conv1d.step(xBC, state.conv)
        x, B, C = self._split(xBC)  # (batch, heads, headdim), (batch, groups, d_state) twice
        dt = self._step_size(dt)
        wide, groups = state_dtype(x), self.config.ngroups
        decay = torch.exp(dt * self._decay_rate())
        grouped = torch.unflatten(x.to(wide) * dt.unsqueeze(-1), 1, (groups, -1))
        update = torch.einsum("bghp,bgn->bghpn", grouped, B.to(wide)).flatten(1, 2)
        ssm = decay[..., None, None] * state.ssm + update
        grouped_ssm = torch.unflatten(ssm, 1, (groups, -1))
        y = torch.einsum("bghpn,bgn->bghp", grouped_ssm, C.to(wide))
        return self._finish(y.flatten(1, 2).to(x.dtype), x, z), LayerState(conv_state, ssm)

    def initial_state(self, batch_size: int) -> LayerState:
        """Return the empty state before the first position."""
        config, weight = self.config, self.in_proj.weight
        conv = weight.new_zeros(batch_size, config.conv_channels, config.d_conv)
        shape = (batch_size, config.nheads, config.headdim, config.d_state)
        return LayerState(conv, weight.new_zeros(shape, dtype=state_dtype(weight)))

    def _mix_at_once(
        self, projected: Tensor, documents: Tensor | None
    ) -> tuple[Tensor, LayerState] | None:
        """Let the backend do all between the projections, from an empty state, if it can."""
        if not isinstance(self.backend, MixingBackend) or self.config.static:
            return None
        parts = MixerParts(
            conv_weight=self.conv1d.weight.squeeze(1),
            conv_bias=self.conv1d.bias,
            dt_bias=self.dt_bias,
            A=self._decay_rate(),
            D=self.D,
            norm_weight=self.norm.weight,
            norm_eps=self.norm.eps,
            headdim=self.config.headdim,
            ngroups=self.config.ngroups,
        )
        mixed = self.backend.mix(projected, parts, documents)
        if mixed is None:
            return None
        normed, ssm_state = mixed
        conv_state = self.conv1d.final_state(self._parts(projected)[1], None, documents)
        # A module call: adapters of out_proj take part.
        return self.out_proj(normed), LayerState(conv_state, ssm_state)

    def _parts(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, xBC, dt = torch.split(projected, self.config.in_proj_sizes, dim=-1)
        if "dt" in self.config.static:
            dt = dt.new_zeros(()).expand(*dt.shape[:-1], self.config.nheads)
        return z, xBC, dt

    def _split(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        names, per_group = config.selective_maps, (config.ngroups, config.d_state)
        widths = [config.d_inner, *[config.ngroups * config.d_state] * len(names)]
        x, *parts = torch.split(xBC, widths, dim=-1)
        x = torch.unflatten(x, -1, (config.nheads, config.headdim))
        maps = {n: torch.unflatten(t, -1, per_group) for n, t in zip(names, parts, strict=True)}
        for name in config.static_maps:
            constant = self.get_parameter(name).to(x.dtype)
            maps[name] = constant.expand(*x.shape[:-2], *per_group)
        return x, maps["B"], maps["C"]

    def _step_size(self, dt: Tensor) -> Tensor:
        wide = state_dtype(dt)
        return F.softplus(dt.to(wide) + self.dt_bias.to(wide))

    def _decay_rate(self) -> Tensor:
        return -torch.exp(self.A_log.to(state_dtype(self.A_log)))

    def _finish(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        D = self.D.unsqueeze(-1).expand(-1, self.config.headdim).flatten()
        output: Tensor = self.out_proj(self.norm(y.flatten(-2), z, (x.flatten(-2), D)))
        return output
