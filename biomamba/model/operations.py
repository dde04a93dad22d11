"""Count the operations of a scan, which are not those of a product with weights."""

from biomamba.model.config import Mamba2Config, MambaConfig


def scan_operations(config: MambaConfig, chunk: int) -> int:
    """Count the operations of one layer's scan per position, forward.

    That of Mamba2 is counted in the four steps of arXiv 2405.21060, section 6, over chunks of so
    many positions; 0 is the recurrence, one position at a time. That of Mamba-1 as 9 operations per
    state (arXiv 2312.00752, appendix D, which leaves the factor open: three multiplications, an
    addition, an exponential and the output).
    """
    if not isinstance(config, Mamba2Config):
        return 9 * config.d_inner * config.d_state
    scores = 2 * chunk * config.ngroups * config.d_state
    mixing = 2 * chunk * config.d_inner
    states = 2 * 2 * config.d_inner * config.d_state  # into the states and out of them
    return scores + mixing + states
