"""The position in a stream, whatever the stream is made of."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from biomamba.data.datamodule import Exposure, TrainingData
from biomamba.data.mixture import Mixture, TokenBudget
from biomamba.runtime.errors import ConfigError, DataError


class Stream(TrainingData):
    """A stream that is nothing but its name."""

    def __init__(self, name: str = "a") -> None:
        super().__init__(TokenBudget(64 * 8, 8, 8, 1), ["web"], Mixture({"web": 1.0}))
        self.name = name

    @property
    def fingerprint(self) -> str:
        return self.name

    @property
    def tokenizer_fingerprint(self) -> str:
        return "tokens"

    @property
    def vocab_size(self) -> int:
        return 257

    @property
    def store_folders(self) -> dict[str, list[str]]:
        return {}

    @property
    def exposures(self) -> Mapping[str, Exposure]:
        return {}

    def save_tokenizer(self, path: Path) -> None:
        path.write_text("{}")


def trainer_at(processed: int, **fields: Any) -> Any:
    progress = SimpleNamespace(total=SimpleNamespace(processed=processed))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(fit_loop=loop, **fields)


def test_a_stream_without_its_parts_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        TrainingData(TokenBudget(8, 8, 8, 1), ["web"], Mixture({"web": 1.0}))  # type: ignore[abstract]


def test_the_position_is_that_of_the_trainer_but_never_before_the_checkpoint() -> None:
    stream: Any = Stream()
    assert stream.consumed_steps == 0
    stream.load_state_dict({"consumed_steps": 7, "fingerprint": "a"})
    assert stream.consumed_steps == 7
    stream.trainer = trainer_at(0)
    assert stream.state_dict() == {"consumed_steps": 7, "fingerprint": "a"}
    stream.trainer = trainer_at(9)
    assert stream.state_dict() == {"consumed_steps": 9, "fingerprint": "a"}


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"consumed_steps": 7, "fingerprint": "b"}, "another stream of rows"),
        ({"consumed_steps": 65, "fingerprint": "a"}, "has seen 65 steps, the budget has 64"),
    ],
)
def test_a_checkpoint_that_does_not_belong_here_is_refused(
    state: dict[str, Any], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        Stream().load_state_dict(state)


def test_another_stream_is_gone_on_with_where_that_is_allowed() -> None:
    stream = Stream()
    stream.allow_change = True
    stream.load_state_dict({"consumed_steps": 7, "fingerprint": "b"})
    assert stream.state_dict() == {"consumed_steps": 7, "fingerprint": "a"}


def test_rank_and_world_size_are_those_of_the_trainer() -> None:
    stream: Any = Stream()
    assert stream._place() == (0, 1)
    connector = SimpleNamespace(use_distributed_sampler=False)
    place = {"world_size": 2, "global_rank": 1, "_accelerator_connector": connector}
    stream.trainer = trainer_at(0, **place)
    assert stream._place() == (1, 2)
    connector.use_distributed_sampler = True
    with pytest.raises(ConfigError, match="use_distributed_sampler must be false"):
        stream._place()
