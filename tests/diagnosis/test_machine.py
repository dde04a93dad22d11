import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from biomamba.diagnosis import machine
from biomamba.diagnosis.machine import State, check_gpus, check_memory, check_processor, cpu_flags

Usage = namedtuple("Usage", "total used free")


def test_features_are_read_from_the_kernel(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 amx_bf16\n")

    assert cpu_flags(cpuinfo) == {"fpu", "avx2", "avx512_bf16", "amx_bf16"}
    text = next(check_processor(cpuinfo)).text
    assert "avx2, avx512_bf16, amx_bf16: bf16 products in hardware" in text
    assert cpu_flags(tmp_path / "none") == set()
    assert ": no bf16 products" in next(check_processor(tmp_path / "none")).text


def test_more_threads_than_cores_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)

    threads = list(check_processor())[1]

    assert threads.state == State.WARNING
    assert "OMP_NUM_THREADS=" in threads.remedy


def test_little_shared_memory_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 * 2**20, 0, 0))

    found = {finding.topic: finding for finding in check_memory(tmp_path)}

    assert found["shared memory"].state == State.WARNING
    assert "--shm-size" in found["shared memory"].remedy
    assert [finding.topic for finding in check_memory(tmp_path / "none")] == ["memory"]


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "main_memory_bytes", lambda: 2**30)

    assert next(check_memory()).state == State.WARNING


@pytest.mark.parametrize(
    ("has_driver", "built_for", "state"),
    [(False, None, State.OK), (True, None, State.WARNING), (True, "12.6", State.PROBLEM)],
)
def test_a_gpu_that_torch_does_not_see(
    has_driver: bool, built_for: str | None, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/nvidia-smi" if has_driver else None)
    monkeypatch.setattr(torch.version, "cuda", built_for)

    assert [finding.state for finding in check_gpus()] == [state]


@pytest.mark.parametrize(
    ("capability", "supported", "state"),
    [
        ((7, 0), ["sm_75", "sm_80", "sm_90"], State.PROBLEM),  # a V100 with today's torch
        ((7, 0), ["sm_70", "sm_80"], State.OK),
        ((8, 6), ["sm_80", "sm_90"], State.OK),  # code of an earlier minor version runs
        ((8, 0), ["sm_86"], State.PROBLEM),
        ((9, 0), ["sm_90a"], State.OK),
        ((12, 0), ["sm_90", "compute_90"], State.OK),  # PTX is compiled on the spot
    ],
)
def test_a_card_needs_code_for_it(
    capability: tuple[int, int],
    supported: list[str],
    state: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    major, minor = capability
    card = SimpleNamespace(name="card", major=major, minor=minor, total_memory=32 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: supported)
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    (found,) = check_gpus()

    assert found.state == state
    assert f"card, compute capability {major}.{minor}, 32 GiB" in found.text
