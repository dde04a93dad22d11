"""Signals count while they are listened to, and have their earlier effect afterwards."""

import os
import signal

import pytest

from biomamba.workflow.stop_request import SIGNALS, stop_request


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_counted_and_the_first_one_named(number: signal.Signals) -> None:
    before = [signal.getsignal(found) for found in SIGNALS]
    with stop_request() as request:
        assert (request.count, request.name) == (0, "")
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (request.count, request.name) == (2, number.name)

    assert [signal.getsignal(found) for found in SIGNALS] == before
