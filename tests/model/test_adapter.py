import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import build_model, load_pretrained, save_pretrained
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.model.lora import (
    ADAPTER,
    ADAPTER_CONFIG,
    Adaptation,
    Lora,
    adapted_modules,
    load_adapter,
    save_adapter,
)
from biomamba.runtime.errors import CheckpointError

BACKEND = ChunkedScan(chunk_size=8)
LORA = Lora(rank=2, alpha=4.0, targets=["in_proj", "out_proj"])
ADAPTATION = Adaptation(lora=LORA, train=["*.norm_f.weight"])


@pytest.fixture
def base(tiny_model: MambaLM, tmp_path: Path) -> Path:
    save_pretrained(tiny_model.float(), tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def trained(base: Path, tiny_config: Mamba2Config) -> MambaLM:
    model = build_model(tiny_config, BACKEND, str(base), adaptation=ADAPTATION)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_base_and_adapter_are_the_trained_model(
    base: Path, trained: MambaLM, tiny_config: Mamba2Config, tmp_path: Path
) -> None:
    save_adapter(trained, tmp_path)
    going_on = Adaptation(lora=LORA, train=["*.norm_f.weight"], adapter=str(tmp_path))
    loaded = build_model(tiny_config, BACKEND, str(base), adaptation=going_on)

    expected = trained.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[n]) for n, tensor in loaded.state_dict().items())
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == set(
        load_file(tmp_path / ADAPTER)
    )


def test_the_published_model_is_merged(
    trained: MambaLM, random_ids: Callable[..., Tensor], tmp_path: Path
) -> None:
    save_pretrained(trained, tmp_path)
    merged, ids = load_pretrained(tmp_path, BACKEND), random_ids(2, 9)

    assert not list(adapted_modules(merged))
    # Sums of 32 products of float32 numbers near 1, in another order, through two layers.
    torch.testing.assert_close(merged(ids), trained(ids), rtol=1e-5, atol=1e-4)


def test_the_adapter_is_small(trained: MambaLM, tmp_path: Path) -> None:
    save_adapter(trained, tmp_path)
    # 2 x rank 2 x (16 + 100 + 32 + 16) numbers, the last norm of 16, and the header.
    assert (tmp_path / ADAPTER).stat().st_size < 4 * (656 + 16) + 2_000


def test_without_adapters_nothing_is_written(tiny_model: MambaLM, tmp_path: Path) -> None:
    save_adapter(tiny_model, tmp_path / "none")

    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 1}, r"in_proj: .*'rank': 2.* asked for .*'rank': 1"),
        ({"alpha": 5.0}, r"'scale': 2.0.* asked for .*'scale': 2.5"),
        ({"targets": ["in_proj"]}, r"out_proj: .* asked for None"),
    ],
)
def test_other_adapters_are_refused(
    trained: MambaLM,
    tiny_config: Mamba2Config,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    save_adapter(trained, tmp_path)
    other = MambaLM(tiny_config, BACKEND)
    settings: dict[str, Any] = {"rank": 2, "alpha": 4.0, "targets": ["in_proj", "out_proj"]}
    Lora(**(settings | changes)).add_to(other)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(other, tmp_path)


def test_damaged_files_are_refused(trained: MambaLM, tmp_path: Path) -> None:
    save_adapter(trained, tmp_path)
    tensors = load_file(tmp_path / ADAPTER)
    name = next(name for name in tensors if name.endswith("lora_a"))
    save_file({n: t for n, t in tensors.items() if n != name}, tmp_path / ADAPTER)
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        load_adapter(trained, tmp_path)
    save_file(tensors | {"other": torch.zeros(3)}, tmp_path / ADAPTER)
    with pytest.raises(CheckpointError, match=r"unexpected other \(3,\)"):
        load_adapter(trained, tmp_path)
    (tmp_path / ADAPTER).write_bytes(b"no")
    with pytest.raises(CheckpointError, match=ADAPTER):
        load_adapter(trained, tmp_path)
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps([]))
    with pytest.raises(CheckpointError, match=rf"{ADAPTER_CONFIG}: the file is a list"):
        load_adapter(trained, tmp_path)
