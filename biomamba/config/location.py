"""Where the configuration files lie: inside an installed package, or beside it in a checkout."""

from pathlib import Path

from biomamba.runtime.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir(package: Path = _PACKAGE) -> Path:
    """Return the folder of the YAML files.

    The wheel carries them as biomamba/conf; a checkout keeps them at its top level.

    Raises:
        ConfigError: neither folder exists.
    """
    candidates = (package / "conf", package.parent / "conf")
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"no configuration files: neither {candidates[0]} nor {candidates[1]} exists; "
        "install the package again (pip install .) or run from a complete checkout"
    )
