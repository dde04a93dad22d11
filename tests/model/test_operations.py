"""Operations of a scan."""

import pytest

from biomamba.model.config import Mamba1Config, Mamba2Config
from biomamba.model.ssd import scan_operations

MAMBA2 = Mamba2Config(d_model=64, n_layer=1, vocab_size=16, d_state=16, headdim=16)


@pytest.mark.parametrize("chunk", [1, 64, 256])
def test_chunks_add_scores_and_mixing_to_the_recurrence(chunk: int) -> None:
    states = 4 * 128 * 16

    assert scan_operations(MAMBA2, 0) == states
    assert scan_operations(MAMBA2, chunk) == states + chunk * (2 * 16 + 2 * 128)


def test_mamba1_has_no_chunks() -> None:
    config = Mamba1Config(d_model=64, n_layer=1, vocab_size=16)

    assert scan_operations(config, 0) == scan_operations(config, 64) == 9 * 128 * 16
