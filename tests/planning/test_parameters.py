"""Parameters that are only described, against built models and optimizers."""

from typing import Any

import pytest
import torch

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import Adaptation, Lora, ParameterCount
from biomamba.planning.memory import Parameter, Parameters, adamw_bytes, float32_bytes
from biomamba.training.optimizer import AdamW

SIZES: dict[str, Any] = {"d_model": 32, "n_layer": 3, "vocab_size": 50}
CONFIGS: dict[str, MambaConfig] = {
    "mamba2": Mamba2Config(**SIZES, d_state=8, headdim=16),
    "untied": Mamba2Config(**SIZES, d_state=8, headdim=16, tie_embeddings=False),
    "static": Mamba2Config(**SIZES, d_state=8, headdim=16, static=("dt", "B")),
    "mamba1": Mamba1Config(**SIZES),
}
ADAPTATIONS = {
    "all": None,
    "lora": Adaptation(lora=Lora(rank=2, alpha=4.0, targets=["in_proj", "out_proj"])),
    "parts": Adaptation(freeze=["backbone.embedding.weight"]),
}


def built(config: MambaConfig, adaptation: Adaptation | None) -> MambaLM:
    model = MambaLM(config, ChunkedScan())
    if adaptation is not None:
        adaptation.apply(model)
    return model


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_bytes_are_those_of_a_built_model(name: str, adaptation: str) -> None:
    model = built(CONFIGS[name], ADAPTATIONS[adaptation])

    found = Parameters.described(CONFIGS[name], ADAPTATIONS[adaptation])

    count = ParameterCount.of(model)
    assert (found.total_numel, found.trained_numel) == (count.total, count.trained)
    assert float32_bytes(found.all) == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_optimizer_bytes_are_those_of_adamw_after_a_step(name: str, adaptation: str) -> None:
    model = built(CONFIGS[name], ADAPTATIONS[adaptation])
    optimizer = AdamW(lr=1e-3, weight_decay=0.1).build(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)

    optimizer.step()

    states = [value for state in optimizer.state.values() for value in state.values()]
    described = Parameters.described(CONFIGS[name], ADAPTATIONS[adaptation])
    assert adamw_bytes(described.trained) == sum(value.nbytes for value in states)


def test_the_largest_shard_has_the_rows_rounded_up() -> None:
    matrix, vector = Parameter("w", (10, 3), True), Parameter("b", (2,), True)

    assert [matrix.shard_numel(n) for n in (1, 2, 4, 16)] == [30, 15, 9, 3]
    assert [vector.shard_numel(n) for n in (1, 2, 4)] == [2, 1, 1]
    assert float32_bytes([matrix, vector], 4) == 4 * (9 + 1)


def test_blocks_and_the_rest_make_the_model() -> None:
    for config in CONFIGS.values():
        found = Parameters.described(config, None)
        blocks = found.of_blocks()

        assert len(blocks) == config.n_layer
        assert blocks[0] == config.mixer_parameters() + config.d_model
        assert sum(blocks) + found.outside_blocks() == config.num_parameters()


def test_an_adapter_of_an_earlier_run_is_not_read() -> None:
    lora = Lora(rank=2, alpha=4.0, targets=["in_proj"])

    named = Adaptation(lora=lora, adapter="there/is/none")
    found = Parameters.described(CONFIGS["mamba2"], named)

    assert found == Parameters.described(CONFIGS["mamba2"], Adaptation(lora=lora))
