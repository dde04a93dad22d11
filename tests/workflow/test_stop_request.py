"""Signals count while they are listened to, and have their earlier effect afterwards."""

import os
import signal

import pytest

from biomamba.runtime.signals import SIGNALS
from biomamba.workflow import runner as module
from biomamba.workflow.runner import stop_request


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_counted_and_the_first_one_named(number: signal.Signals) -> None:
    before = [signal.getsignal(found) for found in SIGNALS]
    with stop_request() as request:
        assert (request.count, request.name) == (0, "")
        os.kill(os.getpid(), number)
        other = signal.SIGUSR1 if number != signal.SIGUSR1 else signal.SIGUSR2
        os.kill(os.getpid(), other)
        assert (request.count, request.name, request.number) == (2, number.name, number)

    assert [signal.getsignal(found) for found in SIGNALS] == before


def test_a_signal_that_comes_twice_at_once_counts_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with stop_request() as request:
        for moment, count in ((100.0, 1), (100.1, 1), (103.0, 2)):
            now[0] = moment
            os.kill(os.getpid(), signal.SIGINT)
            assert request.count == count


def test_an_ignored_hangup_stays_ignored() -> None:
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_request() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.count == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, earlier)
