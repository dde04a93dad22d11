"""The errors of a user."""

import pytest

from biomamba.runtime import errors


@pytest.mark.parametrize(
    "name", ["ConfigError", "DataError", "CheckpointError", "MissingDependencyError"]
)
def test_every_user_error_has_the_common_base(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.BioMambaError)


def test_config_error_is_a_value_error() -> None:
    assert issubclass(errors.ConfigError, ValueError)
