"""The Transformer of equal size: transformers' GPT-NeoX with random weights and SDPA attention."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from biomamba.runtime.optional import import_optional
from biomamba.timing.memory import held_bytes
from biomamba.timing.settings import DECODE, TRAIN, Point
from biomamba.timing.subject import Prompts
from biomamba.timing.transformer_shape import TransformerShape

NAME = "transformer"
_TRAINING = 3  # forward, and twice as much backward


def import_transformers() -> Any:
    """Return the module.

    Raises:
        MissingDependencyError: It is not installed.
    """
    return import_optional(
        "transformers",
        "the Transformer of equal size (transformer=true)",
        "pip install 'biomamba[baselines]'",
    )


class TransformerSubject:
    """A Transformer, measured; see `Subject`.

    Keys and values lie in memory that is taken once for the whole row, so that no token copies
    them. Full rows need no mask, which lets SDPA take its fastest kernel.
    """

    name = NAME

    def __init__(self, module: nn.Module, shape: TransformerShape) -> None:
        self.module: Any = module
        self._sizes = shape

    @classmethod
    def build(
        cls, shape: TransformerShape, max_tokens: int, device: torch.device, dtype: torch.dtype
    ) -> "TransformerSubject":
        """Draw weights for rows of at most `max_tokens`.

        Raises:
            MissingDependencyError: transformers is not installed.
        """
        transformers = import_transformers()
        config = transformers.GPTNeoXConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.d_model,
            num_hidden_layers=shape.n_layer,
            num_attention_heads=shape.n_head,
            intermediate_size=shape.d_ff,
            max_position_embeddings=max_tokens,
            tie_word_embeddings=shape.tie_embeddings,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
        with device:
            module = transformers.GPTNeoXForCausalLM(config)
        return cls(module.to(dtype), shape)

    @property
    def shape(self) -> Mapping[str, int | bool | str]:
        """Its sizes by name."""
        return {"layer": "GPTNeoX", **self._sizes.plain()}

    @property
    def num_parameters(self) -> int:
        """Count its trainable numbers; a tied head counts once."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def head_weight(self) -> Tensor:
        """Matrix (rows, d_model) that turns hidden vectors into logits."""
        weight: Tensor = self.module.lm_head.weight
        return weight

    def hidden(self, ids: Tensor) -> Tensor:
        """Return the hidden vectors (rows, length, d_model) behind the last norm."""
        found: Tensor = self.module.gpt_neox(ids, use_cache=False).last_hidden_state
        return found

    def first_ids(self, prompts: Prompts, new_tokens: int) -> Tensor:
        """Read the prompts and return the most likely next id of each (rows,)."""
        return self.begin(prompts, new_tokens)[0]

    def begin(self, prompts: Prompts, new_tokens: int) -> tuple[Tensor, "TransformerContinuation"]:
        """Read the prompts; return the most likely next ids and what continues behind them."""
        ids = torch.tensor(prompts, device=self.head_weight.device)
        size = ids.shape[1] + new_tokens
        cache = import_transformers().StaticCache(self.module.config, max_cache_len=size)
        logits = self.module(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        continuation = TransformerContinuation(self.module, cache, ids.shape[1])
        return logits[:, -1].argmax(-1), continuation

    def operations(self, point: Point, new_tokens: int) -> float:
        """Count the useful operations of a measurement: products, and attention to what is past."""
        sizes = self._sizes
        table = sizes.table_parameters
        blocks = self.num_parameters - table * (1 if sizes.tie_embeddings else 2)
        # Scores and sums over values: 2 products of 2 operations per position that is seen.
        per_seen = 4 * sizes.d_model * sizes.n_layer
        if point.phase == DECODE:
            seen = point.length + (new_tokens + 1) / 2
            step = 2 * blocks + 2 * table + per_seen * seen
            return float(point.batch * new_tokens * step)
        forward = 2 * blocks + per_seen * (point.length + 1) / 2
        if point.phase == TRAIN:
            return float(_TRAINING * point.tokens * (forward + 2 * table))
        return float(point.tokens * forward + 2 * table * point.batch)


class TransformerContinuation:
    """Rows behind their context, with the keys and values of everything before."""

    def __init__(self, module: Any, cache: Any, context: int) -> None:
        self._module, self._cache, self._context = module, cache, context

    def reset(self) -> None:
        """Forget the ids behind the context."""
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(self._context)

    def step(self, ids: Tensor) -> Tensor:
        """Return the most likely next id of each row (rows,) behind these ids (rows,)."""
        found = self._module(ids.unsqueeze(1), past_key_values=self._cache, use_cache=True)
        ids = found.logits[:, -1].argmax(-1)
        return ids

    def held_bytes(self) -> int:
        """Count the bytes of weights, keys and values."""
        return held_bytes(self._module, self._cache)
