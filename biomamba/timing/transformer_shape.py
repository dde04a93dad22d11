"""The Transformer that has as many parameters as one of our models."""

from dataclasses import asdict, dataclass

from biomamba.model.config import MambaConfig
from biomamba.runtime.errors import ConfigError

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
