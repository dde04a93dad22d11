"""The Mamba2 language model: embedding, blocks, last norm, head.

Modules are nested and named as in the state-spaces checkpoints, so that state dicts map one to one.
Letters and shapes: see `biomamba.model.ssd`.
Source: arXiv 2405.21060, section 7; state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from biomamba.model.config import Mamba2Config
from biomamba.model.conv import CausalConv1d
from biomamba.model.norm import GatedRMSNorm, RMSNorm
from biomamba.model.ssd import SSDBackend, document_numbers, state_dtype


class LayerState(NamedTuple):
    """What one block remembers of the positions so far."""

    conv: Tensor  # (batch, channels, d_conv)
    ssm: Tensor  # (batch, heads, headdim, d_state)


class Mamba2Mixer(nn.Module):
    """Projection, convolution, scan, gated norm, projection.

    Deviation: dt_limit is fixed at (0, inf) and only the convolution has a bias, as in every
    published checkpoint.
    """

    def __init__(self, config: Mamba2Config, backend: SSDBackend) -> None:
        super().__init__()
        self.config = config
        self.backend = backend
        inner, channels, heads = config.d_inner, config.conv_channels, config.nheads
        self.in_proj = nn.Linear(config.d_model, inner + channels + heads, bias=False)
        self.conv1d = CausalConv1d(channels, config.d_conv)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))
        self.norm = GatedRMSNorm(inner, config.norm_eps, config.ngroups)
        self.out_proj = nn.Linear(inner, config.d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw A, dt and the output projection as mamba_ssm does.

        Source: state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py and
        mamba_ssm/models/mixer_seq_simple.py (out_proj scaled by 1/sqrt(n_layer)).
        """
        config = self.config
        self.A_log.uniform_(*config.A_init_range).log_()
        self.D.fill_(1.0)
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
        z, xBC, dt = self._project(u)
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
        z, xBC, dt = self._project(u)
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

    def _project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        sizes = [config.d_inner, config.conv_channels, config.nheads]
        z, xBC, dt = torch.split(self.in_proj(u), sizes, dim=-1)
        return z, xBC, dt

    def _split(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        maps = config.ngroups * config.d_state
        x, B, C = torch.split(xBC, [config.d_inner, maps, maps], dim=-1)
        x = torch.unflatten(x, -1, (config.nheads, config.headdim))
        per_group = (config.ngroups, config.d_state)
        return x, torch.unflatten(B, -1, per_group), torch.unflatten(C, -1, per_group)

    def _step_size(self, dt: Tensor) -> Tensor:
        wide = state_dtype(dt)
        return F.softplus(dt.to(wide) + self.dt_bias.to(wide))

    def _decay_rate(self) -> Tensor:
        return -torch.exp(self.A_log.to(state_dtype(self.A_log)))

    def _finish(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        y = torch.addcmul(y, x, self.D.to(x.dtype).unsqueeze(-1)).flatten(-2)
        output: Tensor = self.out_proj(self.norm(y, z))
        return output


class Mamba2Block(nn.Module):
    """One layer: residual + mixer(norm(residual)).

    With `activation_checkpointing` a training step keeps only the input of the block (4 d_model
    bytes per position) and computes the rest again in the backward pass: the same gradients for
    about a third more products.
    """

    def __init__(self, config: Mamba2Config, backend: SSDBackend) -> None:
        super().__init__()
        self.activation_checkpointing = False
        self.residual_in_fp32 = config.residual_in_fp32
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = Mamba2Mixer(config, backend)

    def forward(
        self, residual: Tensor, documents: Tensor | None = None, state: LayerState | None = None
    ) -> tuple[Tensor, LayerState]:
        """Add the mixer's output to the residual stream (batch, length, d_model)."""
        if not (self.activation_checkpointing and torch.is_grad_enabled()):
            return self._mix(residual, documents, state)
        # Inside the forward of the module: the hooks of a sharded block are not run again. Nothing
        # here is random, so there is no random state to keep.
        mixed: tuple[Tensor, LayerState] = checkpoint(
            self._mix, residual, documents, state, use_reentrant=False, preserve_rng_state=False
        )
        return mixed

    def _mix(
        self, residual: Tensor, documents: Tensor | None, state: LayerState | None
    ) -> tuple[Tensor, LayerState]:
        output, state = self.mixer(self.norm(residual), documents, state)
        return self._widen(residual) + output, state

    def step(self, residual: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Do the same for one position, residual (batch, d_model)."""
        output, state = self.mixer.step(self.norm(residual), state)
        return self._widen(residual) + output, state

    def _widen(self, residual: Tensor) -> Tensor:
        return residual.to(state_dtype(residual)) if self.residual_in_fp32 else residual


class Mamba2Backbone(nn.Module):
    """Embedding, blocks and last norm."""

    def __init__(self, config: Mamba2Config, backend: SSDBackend) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=config.initializer_range)
        self.layers = nn.ModuleList(Mamba2Block(config, backend) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model, config.norm_eps)

    def forward(
        self,
        input_ids: Tensor,
        seq_idx: Tensor | None = None,
        states: Sequence[LayerState] | None = None,
    ) -> tuple[Tensor, list[LayerState]]:
        """Return what `Mamba2LM.hidden` returns."""
        documents = None if seq_idx is None else document_numbers(seq_idx)
        residual = self.embedding(input_ids)
        final_states = []
        for number, layer in enumerate(self.layers):
            state = None if states is None else states[number]
            residual, final_state = layer(residual, documents, state)
            final_states.append(final_state)
        return self.norm_f(residual), final_states


class Mamba2LM(nn.Module):
    """Language model over `config.padded_vocab_size` ids, of which the first vocab_size are used.

    The padding ids take part in the softmax, as in mamba_ssm and transformers.
    """

    def __init__(self, config: Mamba2Config, backend: SSDBackend) -> None:
        super().__init__()
        self.config = config
        self.backbone = Mamba2Backbone(config, backend)
        self.lm_head: nn.Linear | None = None
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False)

    @property
    def head_weight(self) -> Tensor:
        """Matrix (padded_vocab, d_model) that turns hidden vectors into logits."""
        head = self.backbone.embedding if self.lm_head is None else self.lm_head
        return head.weight

    def hidden(
        self,
        input_ids: Tensor,
        seq_idx: Tensor | None = None,
        states: Sequence[LayerState] | None = None,
    ) -> tuple[Tensor, list[LayerState]]:
        """Return the hidden vectors (batch, length, d_model) after the last norm, and the states.

        `seq_idx` (batch, length): nothing passes where it changes. `states` (None: empty) continue
        the document at position 0; the returned ones are those after the last position.
        """
        hidden, final_states = self.backbone(input_ids, seq_idx, states)
        return hidden, final_states

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., padded_vocab) of hidden vectors (..., d_model)."""
        return F.linear(hidden, self.head_weight)

    def forward(self, input_ids: Tensor, seq_idx: Tensor | None = None) -> Tensor:
        """Return the logits (batch, length, padded_vocab)."""
        return self.logits(self.hidden(input_ids, seq_idx)[0])

    def step(
        self, input_ids: Tensor, states: Sequence[LayerState]
    ) -> tuple[Tensor, list[LayerState]]:
        """Return the logits (batch, padded_vocab) after one further id per row, and the states."""
        residual = self.backbone.embedding(input_ids)
        next_states = []
        for layer, state in zip(self.backbone.layers, states, strict=True):
            assert isinstance(layer, Mamba2Block)
            residual, next_state = layer.step(residual, state)
            next_states.append(next_state)
        return self.logits(self.backbone.norm_f(residual)), next_states

    def checkpoint_activations(self) -> None:
        """Let every block forget its activations until the backward pass; see Mamba2Block."""
        for layer in self.backbone.layers:
            assert isinstance(layer, Mamba2Block)
            layer.activation_checkpointing = True

    def initial_states(self, batch_size: int) -> list[LayerState]:
        """Return the empty states before the first position."""
        config, weight = self.config, self.head_weight
        conv = weight.new_zeros(batch_size, config.conv_channels, config.d_conv)
        shape = (batch_size, config.nheads, config.headdim, config.d_state)
        ssm = weight.new_zeros(shape, dtype=state_dtype(weight))
        return [LayerState(conv, ssm) for _ in range(config.n_layer)]


def no_decay_parameter_names(model: nn.Module) -> set[str]:
    """Name the parameters without weight decay: A_log, D, dt_bias, norm weights and biases.

    These are the parameters that are not matrices. Source: `_no_weight_decay` and the norms and
    biases in state-spaces/mamba@03a38fb:mamba_ssm/modules/mamba2.py; arXiv 2312.00752, E.2.1.
    """
    return {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
