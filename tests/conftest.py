"""Fixtures for all tests: seed, no network, real data, the composed config, forked ranks."""

import multiprocessing
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from tensorboard.summary.writer import event_file_writer

from biomamba.config.compose import compose_config
from biomamba.runtime.random_state import seed_everything

CHECKOUT = Path(__file__).resolve().parents[1]
LOOPBACK = ("localhost", "::1", "")


def pytest_configure() -> None:
    """Take the signals that `nohup`, or a shell's `&`, tells a program to ignore.

    The package respects an ignored signal; the tests show what happens without one.
    """
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


@pytest.fixture(autouse=True)
def _seed() -> None:
    seed_everything(0)


@pytest.fixture(autouse=True)
def _first_event_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Number the event files of TensorBoard from 0, as in the process of a program.

    Files of one second are read in the order of their names: number 10 before 9, and the points of
    a run that are read before its start mark are dropped.
    """
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


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


@dataclass(frozen=True)
class Ended:
    """How a rank ended: its exit code (minus the number of a signal) and its error output."""

    code: int
    errors: str


ForkRanks = Callable[..., list[Ended]]


@pytest.fixture(scope="session")
def fork_ranks(tmp_path_factory: pytest.TempPathFactory) -> ForkRanks:
    """Return fork_ranks(function, num_ranks, seconds): one run of a program in real processes.

    They are forked, so that only the first one pays for the imports, and find the environment that
    a launcher sets; nobody ends one when another dies. A rank that hangs fails the test.
    """

    def run(function: Callable[[], None], num_ranks: int = 1, seconds: float = 200) -> list[Ended]:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        folder = tmp_path_factory.mktemp("ranks")
        errors = [folder / f"{rank}.err" for rank in range(num_ranks)]
        place = {"WORLD_SIZE": str(num_ranks), "MASTER_PORT": str(port)} if num_ranks > 1 else {}
        context = multiprocessing.get_context("fork")
        ranks = [
            context.Process(target=_as_rank, args=(function, rank, place, path))
            for rank, path in enumerate(errors)
        ]
        with warnings.catch_warnings():  # later versions of Python warn of threads
            warnings.simplefilter("ignore", DeprecationWarning)
            for process in ranks:
                process.start()
        deadline = time.monotonic() + seconds
        try:
            for process in ranks:
                process.join(max(0.0, deadline - time.monotonic()))
            codes = [process.exitcode for process in ranks]
        finally:
            for process in ranks:
                process.kill()
                process.join()
        texts = [path.read_text(errors="replace") for path in errors]
        assert None not in codes, f"ranks hang: {codes}\n{texts}"
        return [Ended(int(c or 0), text) for c, text in zip(codes, texts, strict=True)]

    return run


def _as_rank(function: Callable[[], None], rank: int, place: dict[str, str], errors: Path) -> None:
    if place:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {**place, "GLOO_SOCKET_IFNAME": "lo"}
    warnings.simplefilter("default")  # tests make errors of them
    for stream, path in (("stdout", Path(os.devnull)), ("stderr", errors)):
        file = path.open("w", buffering=1)
        os.dup2(file.fileno(), {"stdout": 1, "stderr": 2}[stream])
        setattr(sys, stream, file)
    function()
