"""Settings of another program, composed while Hydra runs one's own."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from biomamba.config.compose import checked_settings
from biomamba.config.safety import conf_dir
from biomamba.config.schema import register_schemas
from biomamba.runtime.errors import ConfigError


def test_settings_do_not_hold_the_time_of_day() -> None:
    found = checked_settings("train", ["max_tokens=8_192"])

    assert found["max_tokens"] == 8_192
    assert "${now:" in found["run_id"]
    assert found == checked_settings("train", ["max_tokens=8_192"])


def test_all_problems_are_told() -> None:
    with pytest.raises(ConfigError) as found:
        checked_settings("train", ["max_tokenz=1", "optimizer.lrr=1"])

    assert "max_tokenz" in str(found.value)
    assert "lrr" in str(found.value)


@pytest.mark.parametrize("is_good", [True, False])
def test_hydra_is_left_as_it_was(is_good: bool) -> None:
    register_schemas()
    with initialize_config_dir(str(conf_dir()), job_name="own", version_base="1.3"):
        own = GlobalHydra.instance().hydra
        if is_good:
            checked_settings("evaluate", ["checkpoint=x"])
        else:
            with pytest.raises(ConfigError):
                checked_settings("evaluate", ["checkpint=x"])

        assert GlobalHydra.instance().hydra is own
    assert not GlobalHydra.instance().is_initialized()
