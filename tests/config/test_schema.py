"""The top-level keys of each program."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, ValidationError

from biomamba.config.schema import SCHEMAS, TrainSchema


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schema_refuses_another_key(name: str) -> None:
    schema = OmegaConf.structured(SCHEMAS[name])

    with pytest.raises(ConfigKeyError, match="traner"):
        OmegaConf.merge(schema, {"traner": 1})


def test_paths_refuse_another_key() -> None:
    with pytest.raises(ConfigKeyError, match="data_dri"):
        OmegaConf.merge(OmegaConf.structured(TrainSchema), {"paths": {"data_dri": "x"}})


def test_tokens_are_whole_numbers() -> None:
    with pytest.raises(ValidationError, match=r"1000\.5"):
        OmegaConf.merge(OmegaConf.structured(TrainSchema), {"max_tokens": 1000.5})


def test_a_run_goes_on_by_default() -> None:
    assert OmegaConf.structured(TrainSchema).resume == "auto"
