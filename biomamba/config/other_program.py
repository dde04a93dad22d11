"""Compose and check the configuration of another program, within one that Hydra has started."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from biomamba.config.compose import compose_config, preflight


def checked_settings(program: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the configuration that a program would receive, interpolations not resolved.

    So it does not depend on the time of day, which the default of `run_id` holds.

    Raises:
        ConfigError: The program would refuse it; all problems are told.
    """
    with _own_hydra_aside():
        preflight(program, overrides)
        content: Any = OmegaConf.to_container(compose_config(program, overrides), resolve=False)
    settings: dict[str, Any] = content
    return settings


@contextmanager
def _own_hydra_aside() -> Iterator[None]:
    """Hydra composes for one program at a time."""
    own, own_config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = own
        HydraConfig.instance().cfg = own_config
