from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from biomamba.planning.hardware import GIB, Hardware, main_memory_bytes
from biomamba.runtime.errors import ConfigError

V100: dict[str, Any] = {"device": "gpu", "devices_per_node": 8, "memory_gib": 32, "capability": 7.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "tpu"}, "device must be gpu or cpu"),
        ({"devices_per_node": 0}, "devices_per_node must be .* at least 1, found 0"),
        ({"num_nodes": 0}, "num_nodes must be .* at least 1, found 0"),
        ({"memory_gib": 0}, "memory_gib must be a finite number above 0, or null, found 0"),
        ({"reserved_gib": -1}, "reserved_gib must be .* at least 0, found -"),
        (
            {"assumed_utilisation": {"fused": 30}},
            "assumed_utilisation.fused must be .* above 0 and at most 1, found 30",
        ),
    ],
)
def test_wrong_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hardware(**V100 | change)


def test_processes_share_the_memory_of_a_cpu_but_have_a_gpu_each() -> None:
    gpus = Hardware(**V100, num_nodes=2)
    cpu = Hardware(device="cpu", devices_per_node=4, memory_gib=32)

    assert (gpus.world_size, gpus.bytes_per_rank) == (16, 32 * GIB)
    assert (cpu.world_size, cpu.bytes_per_rank) == (4, 8 * GIB)


def test_what_is_left_open_is_read_from_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Hardware(device="cpu", devices_per_node=1).resolved()
    assert found.bytes_per_rank == pytest.approx(main_memory_bytes(), rel=0.01)

    card = SimpleNamespace(total_memory=24 * GIB, major=8, minor=9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    gpu = Hardware(device="gpu", devices_per_node=1).resolved()
    assert (gpu.memory_gib, gpu.capability) == (24, 8.9)
    known = Hardware(**V100)
    assert known.resolved() is known


def test_without_a_gpu_its_memory_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(ConfigError, match=r"give hardware\.memory_gib=80"):
        Hardware(device="gpu", devices_per_node=1).resolved()


def test_a_probe_counts_only_on_such_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100-SXM2-32GB")

    assert Hardware(**V100, name="V100").is_here()
    assert not Hardware(**V100, name="A100").is_here()
    assert not Hardware(**V100 | {"devices_per_node": 16}).is_here()
    assert Hardware(device="cpu", devices_per_node=2).is_here()


def test_auto_takes_kernels_where_they_can_run() -> None:
    old, new = Hardware(**V100), Hardware(**V100 | {"capability": 8.0})

    assert old.kernel_backend("auto", is_mamba2=True) == "chunked"
    assert new.kernel_backend("auto", is_mamba2=True) == "fused"
    assert new.kernel_backend("auto", is_mamba2=False) == "chunked"
    assert new.kernel_backend("chunked", is_mamba2=True) == "chunked"
    assert [hardware.is_bf16_capable for hardware in (old, new)] == [False, True]


def test_a_container_limits_the_memory(tmp_path: Path) -> None:
    total = main_memory_bytes(tmp_path / "none")
    limit = tmp_path / "memory.max"
    for text, expected in (("max\n", total), ("1048576\n", 2**20), (str(2 * total), total)):
        limit.write_text(text)

        assert main_memory_bytes(limit) == expected
