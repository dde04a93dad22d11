"""Where the YAML files are looked for."""

from pathlib import Path

import pytest

from biomamba.config.safety import conf_dir
from biomamba.runtime.errors import ConfigError


def test_installed_package_holds_its_files(tmp_path: Path) -> None:
    (tmp_path / "biomamba" / "conf").mkdir(parents=True)
    (tmp_path / "conf").mkdir()

    assert conf_dir(tmp_path / "biomamba") == tmp_path / "biomamba" / "conf"


def test_checkout_has_its_files_beside_the_package(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()

    assert conf_dir(tmp_path / "biomamba") == tmp_path / "conf"


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration files") as caught:
        conf_dir(tmp_path / "biomamba")

    assert str(tmp_path / "biomamba" / "conf") in str(caught.value)


def test_this_package_finds_its_own() -> None:
    assert (conf_dir() / "train.yaml").is_file()
