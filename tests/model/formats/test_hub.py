import json
from pathlib import Path
from typing import Any

import pytest

from biomamba.model.formats import detect as hub
from biomamba.model.formats.detect import locate
from biomamba.runtime.errors import CheckpointError

SHARDS = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


@pytest.mark.parametrize("name", ["/no/such/folder", "no_such_folder", "a/b/c", "./x/y"])
def test_missing_folder_is_not_looked_up_on_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("network"))

    with pytest.raises(CheckpointError, match=f"{name}: no such folder, and not a hub id"):
        locate(name)


def test_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert locate(str(tmp_path)) == tmp_path


def test_file_is_refused_with_the_right_command(tmp_path: Path) -> None:
    (tmp_path / "step_0000100.ckpt").touch()

    with pytest.raises(CheckpointError, match=r"biomamba.export checkpoint=.*step_0000100.ckpt"):
        locate(tmp_path / "step_0000100.ckpt")


def test_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match=r"owner/name: .*no route.*HF_HUB_OFFLINE=1"):
        locate("owner/name")


@pytest.mark.parametrize(
    ("published", "fetched"),
    [
        ({"model.safetensors", "pytorch_model.bin"}, {"model.safetensors"}),
        ({"pytorch_model.bin"}, {"pytorch_model.bin"}),
        ({"model.safetensors.index.json", *SHARDS.values()}, None),
    ],
)
def test_one_set_of_weights_is_fetched(
    published: set[str],
    fetched: set[str] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published = published | {"config.json", "tokenizer.json", "README.md"}

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repo, revision) == ("owner/name", "v1.0")
        for name in published & set(allow_patterns):
            (tmp_path / name).write_text(json.dumps({"weight_map": SHARDS}))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert locate("owner/name@v1.0") == tmp_path

    weights = fetched if fetched is not None else published - {"README.md"}
    assert {path.name for path in tmp_path.iterdir()} == weights | {"config.json", "tokenizer.json"}
