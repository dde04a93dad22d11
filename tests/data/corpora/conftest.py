"""Raw files written for one test."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.rows import LocalRows


@pytest.fixture
def rows_of(tmp_path: Path) -> Callable[[Sequence[dict[str, Any]]], LocalRows]:
    """Return rows_of(rows): a source of one JSON-lines file with these rows."""

    def _rows(rows: Sequence[dict[str, Any]]) -> LocalRows:
        path = tmp_path / "raw.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return LocalRows([str(path)])

    return _rows
