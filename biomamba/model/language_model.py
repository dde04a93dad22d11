"""The language model: embedding, blocks, last norm, head.

Modules are nested and named as in the state-spaces checkpoints, so that state dicts map one to one.
Letters and shapes: see `biomamba.model.ssd`.
Source: arXiv 2405.21060, section 7;
state-spaces/mamba@03a38fb:mamba_ssm/models/mixer_seq_simple.py.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.loss import check_ids
from biomamba.model.mamba1 import Mamba1Mixer
from biomamba.model.mamba2 import LayerState, Mamba2Mixer
from biomamba.model.norm import GatedRMSNorm, RMSNorm, check_compiler
from biomamba.model.ssd import ScanBackend, document_numbers, state_dtype


def make_mixer(config: MambaConfig, backend: ScanBackend) -> Mamba1Mixer | Mamba2Mixer:
    """Build the mixer that the config describes."""
    match config:
        case Mamba1Config():
            return Mamba1Mixer(config, backend)
        case Mamba2Config():
            return Mamba2Mixer(config, backend)
    raise TypeError(f"{type(config).__name__} describes no mixer that is implemented")


class MambaBlock(nn.Module):
    """One layer: residual + mixer(norm(residual)).

    With `activation_checkpointing` a training step keeps only the input of the block (4 d_model
    bytes per position) and computes the rest again in the backward pass: the same gradients for
    about a third more products.
    """

    def __init__(self, config: MambaConfig, backend: ScanBackend) -> None:
        super().__init__()
        self.activation_checkpointing = False
        self.residual_in_fp32 = config.residual_in_fp32
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = make_mixer(config, backend)

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


class MambaBackbone(nn.Module):
    """Embedding, blocks and last norm."""

    def __init__(self, config: MambaConfig, backend: ScanBackend) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=config.initializer_range)
        self.layers = nn.ModuleList(MambaBlock(config, backend) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model, config.norm_eps)

    def blocks(self) -> list[MambaBlock]:
        """Return the blocks in their order."""
        return cast(list[MambaBlock], list(self.layers))

    def forward(
        self,
        input_ids: Tensor,
        seq_idx: Tensor | None = None,
        states: Sequence[LayerState] | None = None,
        *,
        keeps_states: bool = True,
    ) -> tuple[Tensor, list[LayerState]]:
        """Return what `MambaLM.hidden` returns."""
        if not input_ids.shape[1]:
            raise ValueError(f"input_ids {tuple(input_ids.shape)}: must hold at least one position")
        if seq_idx is not None and seq_idx.shape != input_ids.shape:
            raise ValueError(
                f"seq_idx {tuple(seq_idx.shape)}: must be of the shape of input_ids, "
                f"{tuple(input_ids.shape)}"
            )
        check_ids(input_ids, self.embedding.num_embeddings, "input_ids")
        documents = None if seq_idx is None else document_numbers(seq_idx)
        residual = self.embedding(input_ids)
        final_states = []
        for number, block in enumerate(self.blocks()):
            state = None if states is None else states[number]
            residual, final_state = block(residual, documents, state)
            if keeps_states:
                final_states.append(final_state)
        return self.norm_f(residual), final_states


class MambaLM(nn.Module):
    """Language model over `config.padded_vocab_size` ids, of which the first vocab_size are used.

    The padding ids take part in the softmax, as in mamba_ssm and transformers.
    """

    def __init__(self, config: MambaConfig, backend: ScanBackend) -> None:
        super().__init__()
        self.config = config
        self.backbone = MambaBackbone(config, backend)
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
        *,
        keeps_states: bool = True,
    ) -> tuple[Tensor, list[LayerState]]:
        """Return the hidden vectors (batch, length, d_model) after the last norm, and the states.

        `seq_idx` (batch, length): nothing passes where it changes. `states` (None: empty) continue
        the document at position 0; the returned ones are those after the last position, or none
        with keeps_states=False: those of a training step at 1.3B take 100 MB per row.

        Raises:
            DataError: An id is outside the vocabulary.
        """
        hidden, final_states = self.backbone(input_ids, seq_idx, states, keeps_states=keeps_states)
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
        for block, state in zip(self.backbone.blocks(), states, strict=True):
            residual, next_state = block.step(residual, state)
            next_states.append(next_state)
        return self.logits(self.backbone.norm_f(residual)), next_states

    def checkpoint_activations(self) -> None:
        """Let every block forget its activations until the backward pass; see MambaBlock."""
        for block in self.backbone.blocks():
            block.activation_checkpointing = True

    def compile_norms(self) -> None:
        """Let torch.compile fuse the norms.

        Raises:
            ConfigError: There is no compiler.
        """
        check_compiler()
        for module in self.modules():
            if isinstance(module, RMSNorm | GatedRMSNorm):
                module.is_compiled = True

    def initial_states(self, batch_size: int) -> list[LayerState]:
        """Return the empty states before the first position."""
        return [block.mixer.initial_state(batch_size) for block in self.backbone.blocks()]


def no_decay_parameter_names(model: nn.Module) -> set[str]:
    """Name the parameters without weight decay: A_log, D, dt_bias, norm weights and biases.

    These are the parameters that are not matrices, and of the matrices A_log of Mamba-1 and static
    B and C. Source: `_no_weight_decay` and the norms and biases in
    state-spaces/mamba@03a38fb:mamba_ssm/modules/{mamba_simple,mamba2}.py; arXiv 2312.00752, E.2.1.
    """
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim < 2 or name.rpartition(".")[2] in ("A_log", "B", "C")
    }
