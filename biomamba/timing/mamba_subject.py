"""Our model as it trains, reads and writes elsewhere in this package."""

from collections.abc import Mapping

import torch
from torch import Tensor

from biomamba.model.decoder import Decoder
from biomamba.model.generation import prefill
from biomamba.model.language_model import MambaLM
from biomamba.model.operations import scan_operations
from biomamba.model.ssd import ScanBackend
from biomamba.timing.memory import held_bytes
from biomamba.timing.settings import DECODE, TRAIN, Point
from biomamba.timing.subject import Prompts

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
        """Return the hidden vectors (rows, length, d_model) behind the last norm."""
        return self._model.hidden(ids, keeps_states=False)[0]

    def first_ids(self, prompts: Prompts, new_tokens: int) -> Tensor:
        """Read the prompts and return the most likely next id of each (rows,)."""
        del new_tokens  # the state has one size
        with self._autocast():
            logits, _ = prefill(self._model, prompts, self._prefill_tokens)
        return logits.argmax(-1)

    def begin(self, prompts: Prompts, new_tokens: int) -> tuple[Tensor, "MambaContinuation"]:
        """Read the prompts; return the most likely next ids and what continues behind them."""
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
    """Rows behind their context, whose state has the same size wherever they are."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def reset(self) -> None:
        """Do nothing: the work does not depend on the position."""

    def step(self, ids: Tensor) -> Tensor:
        """Return the most likely next id of each row (rows,) behind these ids (rows,)."""
        return self._decoder.step(ids).argmax(-1)

    def held_bytes(self) -> int:
        """Count the bytes of weights, of copies of them, and of the states."""
        return held_bytes(self._decoder)
