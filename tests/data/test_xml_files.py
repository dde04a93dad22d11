"""XML files by path and by pattern."""

from pathlib import Path

import pytest

from biomamba.data.nlm_download import LocalFiles
from biomamba.runtime.errors import ConfigError, DataError


def test_patterns_and_paths_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b.xml", "a.xml", "c.xml.gz", "a.txt"):
        (tmp_path / name).touch()
    found = LocalFiles([f"{tmp_path}/c.xml.gz", f"{tmp_path}/*.xml"]).files()
    assert [path.name for path in found] == ["c.xml.gz", "a.xml", "b.xml"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [("*.xml", "no raw file matches"), ("no.xml", "does not exist"), ("a.txt", "no known kind")],
)
def test_what_cannot_be_read_is_named(entry: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match=message):
        LocalFiles([f"{tmp_path}/{entry}"]).files()


def test_no_paths_are_refused() -> None:
    with pytest.raises(ConfigError, match="paths is empty"):
        LocalFiles([])
