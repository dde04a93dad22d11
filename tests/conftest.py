"""Fixtures for all tests: a fixed seed, no network, the real data and the composed config."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from biomamba.config.compose import compose_config
from biomamba.runtime.seeding import seed_everything

CHECKOUT = Path(__file__).resolve().parents[1]
LOOPBACK = ("localhost", "::1", "")


@pytest.fixture(autouse=True)
def _seed() -> None:
    seed_everything(0)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine, except in tests marked `network`."""
    if request.node.get_closest_marker("network"):
        return
    for method in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, method, _guarded(getattr(socket.socket, method)))


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guard(self: socket.socket, address: Any) -> Any:
        host = str(address[0]) if isinstance(address, tuple) else ""
        if self.family != socket.AF_UNIX and host not in LOOPBACK and not host.startswith("127."):
            raise RuntimeError(f"tests may not use the network, tried to reach {address}")
        return connect(self, address)

    return guard


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real corpora, which is no part of the repository.

    BIOMAMBA_REAL_DATA names it; BIOMAMBA_REQUIRE_REAL_DATA=1 turns its absence into a failure.
    """
    default = CHECKOUT.parent / "shared" / "data"
    folder = Path(os.environ.get("BIOMAMBA_REAL_DATA", default))
    if not folder.is_dir():
        reason = f"no real data at {folder}; set BIOMAMBA_REAL_DATA to a folder that has it"
        if os.environ.get("BIOMAMBA_REQUIRE_REAL_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture
def compose() -> Callable[..., DictConfig]:
    """Return compose(config_name, *overrides), the config a program would receive."""

    def _compose(config_name: str, *overrides: str) -> DictConfig:
        return compose_config(config_name, overrides)

    return _compose
