"""Missing raw files are named all at once, with where to get them."""

from pathlib import Path

import pytest

from biomamba.runtime.errors import DataError
from biomamba.workflow.chain import check_raw_files

FILES = {"a/x.json": "from here", "b/*.gz": "from there"}


def test_files_and_patterns_that_are_there_pass(tmp_path: Path) -> None:
    for name in ("a/x.json", "b/1.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()

    check_raw_files(FILES, str(tmp_path))
    check_raw_files({}, None)


@pytest.mark.parametrize("is_named", [True, False])
def test_all_that_is_missing_is_told(is_named: bool, tmp_path: Path) -> None:
    with pytest.raises(DataError) as found:
        check_raw_files(FILES, str(tmp_path) if is_named else None)

    text = str(found.value)
    assert "2 raw files of 2" in text
    assert all(f"{name}: {source}" in text for name, source in FILES.items())
    assert "paths.raw_dir" in text
    assert "chain=embedded" in text
