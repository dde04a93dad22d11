"""The Transformer of equal size."""

from itertools import product

import pytest
import transformers

from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.runtime.errors import ConfigError
from biomamba.timing.candidates import equal_shape

SCALES = [(768, 24), (1_024, 48), (1_536, 48), (2_048, 48), (2_560, 64)]


def mamba2(d_model: int, n_layer: int, vocab_size: int = 50_277, **changes: int) -> Mamba2Config:
    return Mamba2Config(d_model=d_model, n_layer=n_layer, vocab_size=vocab_size, **changes)


@pytest.mark.parametrize(("d_model", "n_layer"), SCALES)
def test_the_published_scales_are_met_within_half_a_percent(d_model: int, n_layer: int) -> None:
    config = mamba2(d_model, n_layer)
    shape = equal_shape(config)

    assert abs(shape.num_parameters() / config.num_parameters() - 1) <= 0.005
    assert (shape.d_model, shape.vocab_size) == (d_model, config.padded_vocab_size)
    assert shape.d_model == 64 * shape.n_head
    assert abs(2 * shape.n_layer - n_layer) <= n_layer / 10
    assert 3 < shape.d_ff / shape.d_model < 5


def test_every_size_is_met_within_two_percent() -> None:
    for d_model, n_layer, vocab_size, tie in product(
        (32, 64, 136, 256), (1, 2, 3, 7), (61, 1_000), (True, False)
    ):
        configs: list[MambaConfig] = [
            Mamba2Config(
                d_model=d_model,
                n_layer=n_layer,
                vocab_size=vocab_size,
                d_state=32,
                headdim=8,
                tie_embeddings=tie,
            ),
            Mamba1Config(
                d_model=d_model, n_layer=n_layer, vocab_size=vocab_size, tie_embeddings=tie
            ),
        ]
        for config in configs:
            count = equal_shape(config).num_parameters()
            assert abs(count / config.num_parameters() - 1) <= 0.02, config


@pytest.mark.parametrize("tie", [True, False])
def test_the_count_is_that_of_the_model(tie: bool) -> None:
    shape = equal_shape(mamba2(64, 3, 61, d_state=16, headdim=16))
    config = transformers.GPTNeoXConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        num_hidden_layers=shape.n_layer,
        num_attention_heads=shape.n_head,
        intermediate_size=shape.d_ff,
        tie_word_embeddings=tie,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.GPTNeoXForCausalLM(config)
    told = type(shape)(**{**shape.plain(), "tie_embeddings": tie})  # type: ignore[arg-type]

    assert told.num_parameters() == sum(p.numel() for p in model.parameters())


def test_a_width_without_heads_is_refused() -> None:
    with pytest.raises(ConfigError, match="d_model=20: a Transformer of equal size needs heads"):
        equal_shape(mamba2(20, 1, 16, headdim=8))


def test_a_model_that_is_too_small_is_refused() -> None:
    config = Mamba2Config(d_model=8, n_layer=1, vocab_size=16, d_state=1, headdim=8, expand=1)
    with pytest.raises(ConfigError, match="more than 2% off"):
        equal_shape(config)
