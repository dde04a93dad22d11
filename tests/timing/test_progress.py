"""The time that is left."""

import pytest

from biomamba.timing.measurement import Progress


def test_the_rest_takes_as_long_per_token_as_what_is_done() -> None:
    seconds = [0.0]
    progress = Progress([100, 300], lambda: seconds[0])

    assert progress.remaining_seconds is None
    assert progress.text() == "the time left is not known yet"
    seconds[0] = 30.0
    progress.advance(100)
    assert progress.remaining_seconds == pytest.approx(90)
    assert progress.text() == "about 0:01:30 left"
    progress.advance(300)
    assert progress.remaining_seconds == 0
