"""The models that are compared: ours and others of the same sizes, after the same functions."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gpu_install import spare_mamba_1_extension
from torch import Tensor, nn
from torch.nn import functional as F

from biomamba.model.backends.auto import AutoScan
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.cuda_graphs import make_decoder
from biomamba.model.language_model import MambaLM
from biomamba.model.loss import linear_cross_entropy

IGNORED = -100


@dataclass(frozen=True)
class Scale:
    """Sizes of a Mamba2 and of a Transformer (GPT-NeoX shape) with about as many parameters."""

    d_model: int
    n_layer: int
    transformer_layers: int
    transformer_heads: int
    vocab_size: int = 50_277
    d_state: int = 128
    headdim: int = 64


SCALES = {
    "tiny": Scale(64, 2, 2, 4, vocab_size=256, d_state=16, headdim=16),
    "130m": Scale(768, 24, 12, 12),
    "370m": Scale(1_024, 48, 24, 16),
    "780m": Scale(1_536, 48, 24, 16),
    "1.3b": Scale(2_048, 48, 24, 16),
    "2.7b": Scale(2_560, 64, 32, 32),
}


@dataclass(frozen=True)
class Contender:
    """A model with its loss; `decode(prompt, tokens)` continues a prompt greedily."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    decode: Callable[[Tensor, int], Any] | None = None
    attention_flops: Callable[[int], float] = lambda _: 0.0


def ours(scale: Scale, backend: Any) -> Contender:
    """This package: the loss never holds all logits."""
    config = Mamba2Config(
        d_model=scale.d_model,
        n_layer=scale.n_layer,
        vocab_size=scale.vocab_size,
        d_state=scale.d_state,
        headdim=scale.headdim,
    )
    model = MambaLM(config, backend)

    def loss(ids: Tensor, targets: Tensor, seq_idx: Tensor | None) -> Tensor:
        hidden, _ = model.hidden(ids, seq_idx)
        total = linear_cross_entropy(hidden.flatten(0, 1), model.head_weight, targets.flatten())
        return total / (targets != IGNORED).sum()

    decoder = functools.cache(lambda: make_decoder(model, torch.bfloat16))

    def decode(prompt: Tensor, tokens: int) -> None:
        hidden, states = model.hidden(prompt)
        logits = model.logits(hidden[:, -1])
        decoder().load(states)
        with torch.autocast(prompt.device.type, enabled=False):
            for _ in range(tokens):
                logits = decoder().step(logits.argmax(-1))

    return Contender(model, loss, decode)


def mamba_ssm(scale: Scale) -> Contender:
    """mamba-ssm's own model with the ordinary loss on all logits."""
    spare_mamba_1_extension()
    from mamba_ssm.models.config_mamba import MambaConfig  # noqa: TID251
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel  # noqa: TID251
    from mamba_ssm.utils.generation import InferenceParams  # noqa: TID251

    config = MambaConfig(
        d_model=scale.d_model,
        n_layer=scale.n_layer,
        vocab_size=scale.vocab_size,
        ssm_cfg={"layer": "Mamba2", "d_state": scale.d_state, "headdim": scale.headdim},
        pad_vocab_size_multiple=16,
    )
    model = MambaLMHeadModel(config)

    def loss(ids: Tensor, targets: Tensor, seq_idx: Tensor | None) -> Tensor:
        options = {} if seq_idx is None else {"seq_idx": seq_idx}
        return _ordinary_loss(model(ids, **options).logits, targets)

    def decode(prompt: Tensor, tokens: int) -> None:
        state = InferenceParams(max_seqlen=prompt.shape[1] + tokens, max_batch_size=len(prompt))
        logits = model(prompt, inference_params=state, num_last_tokens=1).logits[:, -1]
        state.seqlen_offset = prompt.shape[1]
        for _ in range(tokens):
            ids = logits.argmax(-1, keepdim=True)
            logits = model(ids, inference_params=state, num_last_tokens=1).logits[:, -1]
            state.seqlen_offset += 1

    return Contender(model, loss, decode)


def transformers_mamba2(scale: Scale) -> Contender:
    """Mamba2 of transformers."""
    from transformers import Mamba2Config as Config
    from transformers import Mamba2ForCausalLM

    config = Config(
        hidden_size=scale.d_model,
        num_hidden_layers=scale.n_layer,
        vocab_size=-(-scale.vocab_size // 16) * 16,
        state_size=scale.d_state,
        head_dim=scale.headdim,
        num_heads=2 * scale.d_model // scale.headdim,
        n_groups=1,
        tie_word_embeddings=True,
    )
    return _of_transformers(Mamba2ForCausalLM(config), lambda _: 0.0)


def transformer(scale: Scale) -> Contender:
    """A GPT-NeoX-shaped Transformer with scaled_dot_product_attention."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        hidden_size=scale.d_model,
        num_hidden_layers=scale.transformer_layers,
        num_attention_heads=scale.transformer_heads,
        intermediate_size=4 * scale.d_model,
        vocab_size=-(-scale.vocab_size // 16) * 16,
        max_position_embeddings=16_384,
        attn_implementation="sdpa",
        tie_word_embeddings=True,
    )
    # Causal scores and their products with the values: 2 x length x d_model each, a third of the
    # work forward and two thirds backward, half of it masked.
    layers, width = scale.transformer_layers, scale.d_model
    return _of_transformers(GPTNeoXForCausalLM(config), lambda length: 6 * layers * width * length)


CONTENDERS: dict[str, Callable[[Scale], Contender]] = {
    "ours, backend=auto": lambda scale: ours(scale, AutoScan()),
    "ours, backend=chunked": lambda scale: ours(scale, ChunkedScan()),
    "mamba_ssm": mamba_ssm,
    "transformers Mamba2": transformers_mamba2,
    "Transformer": transformer,
}


def _of_transformers(model: Any, attention_flops: Callable[[int], float]) -> Contender:
    def loss(ids: Tensor, targets: Tensor, seq_idx: Tensor | None) -> Tensor:
        if seq_idx is not None:
            raise NotImplementedError("knows no documents")
        return _ordinary_loss(model(ids, use_cache=False).logits, targets)

    def decode(prompt: Tensor, tokens: int) -> None:
        model.generate(
            prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
        )

    return Contender(model, loss, decode, attention_flops)


def _ordinary_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)


def flops_per_token(contender: Contender, length: int) -> float:
    """Return 6 per parameter (a tied embedding counts once, as the head) and those of attention."""
    parameters = sum(p.numel() for p in contender.model.parameters())
    return 6 * parameters + contender.attention_flops(length)


def build_on(device: str, make: Callable[[Scale], Contender], scale: Scale) -> Contender:
    """Build a contender with float32 weights on a device."""
    with torch.device(device):
        contender = make(scale)
    contender.model.to(device)
    return contender
