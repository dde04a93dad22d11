"""The models whose speed is measured: ours, and a Transformer of equal size."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from biomamba.model.config import MambaConfig
from biomamba.model.decoder import Decoder
from biomamba.model.generation import prefill
from biomamba.model.language_model import MambaLM
from biomamba.model.ssd import ScanBackend, scan_operations
from biomamba.runtime.errors import ConfigError, import_optional
from biomamba.timing.measurement import held_bytes
from biomamba.timing.records import DECODE, TRAIN, Point

# -------------------------------------------------------------------------------------------------
# What a model must be able to do to be measured.
# -------------------------------------------------------------------------------------------------

Prompts = Sequence[Sequence[int]]


class Continuation(Protocol):
    """Rows that are being continued after their context."""

    def reset(self) -> None:
        """Go back to the end of the context, as far as it makes a difference."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """Return the most likely next id of each row (rows,) after these ids (rows,)."""
        ...

    def held_bytes(self) -> int:
        """Count the bytes of weights and of what is kept of the rows."""
        ...


class Subject(Protocol):
    """A model that is measured."""

    @property
    def name(self) -> str:
        """In tables and files."""
        ...

    @property
    def module(self) -> nn.Module:
        """Its weights."""
        ...

    @property
    def shape(self) -> Mapping[str, int | bool | str]:
        """Its sizes by name, and what computes it."""
        ...

    @property
    def num_parameters(self) -> int:
        """Count its trainable numbers; a tied head counts once."""
        ...

    @property
    def head_weight(self) -> Tensor:
        """Matrix (rows, d_model) that turns hidden vectors into logits."""
        ...

    def hidden(self, ids: Tensor) -> Tensor:
        """Return the hidden vectors (rows, length, d_model) after the last norm."""
        ...

    def first_ids(self, prompts: Prompts, new_tokens: int) -> Tensor:
        """Read the prompts and return the most likely next id of each (rows,).

        Whatever `new_tokens` more ids will need is kept as it would be to continue.
        """
        ...

    def begin(self, prompts: Prompts, new_tokens: int) -> tuple[Tensor, Continuation]:
        """Read the prompts; return the most likely next ids and what continues after them."""
        ...

    def operations(self, point: Point, new_tokens: int) -> float:
        """Count the useful operations of a measurement: products, and scan or attention."""
        ...


# -------------------------------------------------------------------------------------------------
# Our model as it trains, reads and writes elsewhere in this package.
# -------------------------------------------------------------------------------------------------

_TRAINING = 3  # forward, and twice as much backward


class MambaSubject:
    """Our model, measured; see `Subject`.

    Args:
        model: With its weights, on its device.
        product_dtype: Of products in prefill and decoding.
        prefill_tokens: Positions of a prompt that are read at once.
        backend: What computes the scan.
    """

    def __init__(
        self,
        model: MambaLM,
        product_dtype: torch.dtype,
        prefill_tokens: int,
        backend: ScanBackend,
    ) -> None:
        self.module, self.name = model, model.config.layer.lower()
        self._model, self._dtype = model, product_dtype
        self._prefill_tokens, self._backend = prefill_tokens, backend
        # Of the count of operations; a backend without chunks goes position by position.
        self._chunk = int(getattr(backend, "chunk_size", 0))

    @property
    def shape(self) -> Mapping[str, int | bool | str]:
        """Its sizes by name."""
        config = self._model.config
        return {
            "layer": config.layer,
            "backend": self._backend.name,
            "d_model": config.d_model,
            "n_layer": config.n_layer,
            "d_state": config.d_state,
            "vocab_size": config.padded_vocab_size,
            "tie_embeddings": config.tie_embeddings,
        }

    @property
    def num_parameters(self) -> int:
        """Count its trainable numbers; a tied head counts once."""
        return sum(p.numel() for p in self._model.parameters())

    @property
    def head_weight(self) -> Tensor:
        """Matrix (rows, d_model) that turns hidden vectors into logits."""
        return self._model.head_weight

    def hidden(self, ids: Tensor) -> Tensor:
        """Return the hidden vectors (rows, length, d_model) after the last norm."""
        return self._model.hidden(ids, keeps_states=False)[0]

    def first_ids(self, prompts: Prompts, new_tokens: int) -> Tensor:
        """Read the prompts and return the most likely next id of each (rows,)."""
        del new_tokens  # the state has one size
        with self._autocast():
            logits, _ = prefill(self._model, prompts, self._prefill_tokens)
        return logits.argmax(-1)

    def begin(self, prompts: Prompts, new_tokens: int) -> tuple[Tensor, "MambaContinuation"]:
        """Read the prompts; return the most likely next ids and what continues after them."""
        del new_tokens
        with self._autocast():
            logits, states = prefill(self._model, prompts, self._prefill_tokens)
        decoder = Decoder(self._model, self._narrow)
        decoder.load(states)
        return logits.argmax(-1), MambaContinuation(decoder)

    def operations(self, point: Point, new_tokens: int) -> float:
        """Count the useful operations of a measurement: products, and the scan."""
        config = self._model.config
        table = config.padded_vocab_size * config.d_model
        blocks = self.num_parameters - table * (1 if config.tie_embeddings else 2)
        is_step = point.phase == DECODE
        scan = scan_operations(config, 0 if is_step else self._chunk)
        block_operations = 2 * blocks + config.n_layer * scan
        if is_step:
            return float(point.batch * new_tokens * (block_operations + 2 * table))
        if point.phase == TRAIN:
            return float(_TRAINING * point.tokens * (block_operations + 2 * table))
        return float(point.tokens * block_operations + 2 * table * point.batch)

    @property
    def _narrow(self) -> torch.dtype | None:
        return None if self._dtype == torch.float32 else self._dtype

    def _autocast(self) -> torch.autocast:
        device = self._model.head_weight.device.type
        return torch.autocast(device, dtype=self._narrow, enabled=self._narrow is not None)


class MambaContinuation:
    """Rows after their context, whose state has the same size wherever they are."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def reset(self) -> None:
        """Do nothing: the work does not depend on the position."""

    def step(self, ids: Tensor) -> Tensor:
        """Return the most likely next id of each row (rows,) after these ids (rows,)."""
        return self._decoder.step(ids).argmax(-1)

    def held_bytes(self) -> int:
        """Count the bytes of weights, of copies of them, and of the states."""
        return held_bytes(self._decoder)


# -------------------------------------------------------------------------------------------------
# The Transformer that has as many parameters as one of our models.
# -------------------------------------------------------------------------------------------------

MAX_DEVIATION = 0.02
_HEAD_SIZES = (64, 32, 16, 8)
# Widths that kernels like; the last ones are for models so small that a width counts.
_STEPS = (128, 64, 32, 16, 8, 4, 2, 1)
_GOOD_DEVIATION = 0.005


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """The sizes of a GPT-NeoX: attention and MLP beside each other, rotary positions.

    Attributes:
        d_ff: Width inside the MLP.
        vocab_size: Rows of the embedding and of the head.
        tie_embeddings: Whether the head reuses the embedding matrix.
    """

    d_model: int
    n_layer: int
    n_head: int
    d_ff: int
    vocab_size: int
    tie_embeddings: bool

    @property
    def block_parameters(self) -> int:
        """Numbers of one block: two norms, attention and MLP, all with biases."""
        d = self.d_model
        return 4 * d + 4 * d * (d + 1) + 2 * d * self.d_ff + self.d_ff + d

    @property
    def table_parameters(self) -> int:
        """Numbers of the embedding."""
        return self.vocab_size * self.d_model

    def num_parameters(self) -> int:
        """Count the trainable numbers; a tied head counts once."""
        tables = self.table_parameters * (1 if self.tie_embeddings else 2)
        return self.n_layer * self.block_parameters + tables + 2 * self.d_model

    def plain(self) -> dict[str, int | bool]:
        """Return the sizes by name."""
        return asdict(self)


def equal_shape(config: MambaConfig) -> TransformerShape:
    """Return the Transformer of as many parameters, with the same vocabulary and width.

    So embedding and head are alike. A block of Mamba2 has about 6 d_model^2 numbers, one of a
    Transformer 12: it has the number of blocks that comes closest, and its MLP the width that makes
    up the rest.

    Raises:
        ConfigError: No Transformer of this width comes within 2 % of the count.
    """
    d, wanted = config.d_model, config.num_parameters()
    head = next((size for size in _HEAD_SIZES if d % size == 0), None)
    if head is None:
        raise ConfigError(
            f"model.config.d_model={d}: a Transformer of equal size needs heads of "
            f"{', '.join(map(str, _HEAD_SIZES))}, so a multiple of 8; or transformer=false"
        )
    blocks = config.n_layer * (config.mixer_parameters() + d)
    n_layer = max(1, round(blocks / (12 * d * d + 13 * d)))

    def shape(d_ff: int) -> TransformerShape:
        return TransformerShape(
            d_model=d,
            n_layer=n_layer,
            n_head=d // head,
            d_ff=d_ff,
            vocab_size=config.padded_vocab_size,
            tie_embeddings=config.tie_embeddings,
        )

    lacking = wanted - shape(0).num_parameters()
    exact = lacking / (n_layer * (2 * d + 1))
    found = [shape(max(step, step * round(exact / step))) for step in _STEPS]
    best = next((s for s in found if _deviation(s, wanted) <= _GOOD_DEVIATION), found[-1])
    if _deviation(best, wanted) > MAX_DEVIATION:
        raise ConfigError(
            f"model.config: no Transformer with d_model={d} has {wanted:,} parameters; the nearest "
            f"has {best.num_parameters():,}, more than {MAX_DEVIATION:.0%} off. Choose a larger "
            "model, or transformer=false"
        )
    return best


def _deviation(shape: TransformerShape, wanted: int) -> float:
    return abs(shape.num_parameters() / wanted - 1)


# -------------------------------------------------------------------------------------------------
# The Transformer of equal size: transformers' GPT-NeoX with random weights and SDPA attention.
# -------------------------------------------------------------------------------------------------

NAME = "transformer"


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

    Keys and values are in memory that is taken once for the whole row, so that no token copies
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
        """Return the hidden vectors (rows, length, d_model) after the last norm."""
        found: Tensor = self.module.gpt_neox(ids, use_cache=False).last_hidden_state
        return found

    def first_ids(self, prompts: Prompts, new_tokens: int) -> Tensor:
        """Read the prompts and return the most likely next id of each (rows,)."""
        return self.begin(prompts, new_tokens)[0]

    def begin(self, prompts: Prompts, new_tokens: int) -> tuple[Tensor, "TransformerContinuation"]:
        """Read the prompts; return the most likely next ids and what continues after them."""
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
    """Rows after their context, with the keys and values of everything before."""

    def __init__(self, module: Any, cache: Any, context: int) -> None:
        self._module, self._cache, self._context = module, cache, context

    def reset(self) -> None:
        """Forget the ids after the context."""
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(self._context)

    def step(self, ids: Tensor) -> Tensor:
        """Return the most likely next id of each row (rows,) after these ids (rows,)."""
        found = self._module(ids.unsqueeze(1), past_key_values=self._cache, use_cache=True)
        ids = found.logits[:, -1].argmax(-1)
        return ids

    def held_bytes(self) -> int:
        """Count the bytes of weights, keys and values."""
        return held_bytes(self._module, self._cache)
