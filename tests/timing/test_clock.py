"""The clock."""

import pytest
import torch

from biomamba.timing.measurement import DeviceClock


@pytest.mark.parametrize(("device", "num_waits"), [("cpu", 0), ("cuda", 1)])
def test_a_gpu_is_waited_for(device: str, num_waits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[None] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(None))
    clock = DeviceClock(torch.device(device))

    assert clock.now() <= clock.now()
    assert len(waits) == 2 * num_waits
