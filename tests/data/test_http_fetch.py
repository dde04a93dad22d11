"""Fetching from a server with faults."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.remote import Patience, fetch_bytes, fetch_file
from biomamba.runtime.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 4  # 1,024 bytes
QUICK = Patience(attempts=3, first_pause_seconds=0.0, timeout_seconds=0.3)
TRANSIENT = ("429", "500", "503", "408", "drop", "hang", "refuse")
PERMANENT = ("400", "401", "403", "404", "410")


@pytest.fixture
def server(fault_server: Any) -> Any:
    """Return a server with one file of 1,024 bytes, `f`."""
    fault_server.files["f"] = CONTENT
    return fault_server


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "f.part"


def fetch(server: Any, partial: Path) -> None:
    fetch_file(f"{server.url}f", partial, QUICK)


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_fault_that_passes_changes_no_byte(fault: str, server: Any, partial: Path) -> None:
    server.faults["f"] = [fault, fault]
    fetch(server, partial)
    assert partial.read_bytes() == CONTENT
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_small_document_is_retried_as_well(fault: str, server: Any) -> None:
    server.faults["f"] = [fault, fault]
    assert fetch_bytes(f"{server.url}f", QUICK) == CONTENT


@pytest.mark.parametrize("fault", PERMANENT)
def test_what_no_retry_mends_is_named_at_once(fault: str, server: Any, partial: Path) -> None:
    server.faults["f"] = [fault, fault]
    with pytest.raises(DataError, match=rf"127\.0\.0\.1:\d+/f answers {fault}"):
        fetch(server, partial)
    assert len(server.requests) == 1


def test_a_break_is_continued_where_it_happened(server: Any, partial: Path) -> None:
    server.faults["f"] = ["drop", "drop"]
    fetch(server, partial)
    asked = [asked for _, asked in server.requests]
    assert asked == [None, "bytes=512-", "bytes=768-"]
    assert partial.read_bytes() == CONTENT


def test_a_partial_file_of_an_earlier_run_is_continued(server: Any, partial: Path) -> None:
    partial.write_bytes(CONTENT[:1000])
    fetch(server, partial)
    assert server.requests == [("f", "bytes=1000-")]
    assert partial.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_file_anew(server: Any, partial: Path) -> None:
    partial.write_bytes(CONTENT[:1000])
    server.faults["f"] = ["whole"]
    fetch(server, partial)
    assert partial.read_bytes() == CONTENT


def test_a_partial_file_that_is_complete_stays(server: Any, partial: Path) -> None:
    partial.write_bytes(CONTENT)
    fetch(server, partial)
    assert partial.read_bytes() == CONTENT


def test_failures_in_a_row_end_the_stage(server: Any, partial: Path) -> None:
    server.faults["f"] = ["503"] * 3
    with pytest.raises(DataError, match=r"cannot fetch .*503.*3 failures in a row"):
        fetch(server, partial)
    assert len(server.requests) == 3


def test_new_bytes_renew_the_patience(server: Any, partial: Path) -> None:
    server.faults["f"] = ["drop", "503", "drop", "503", "drop", "503"]
    fetch(server, partial)
    assert partial.read_bytes() == CONTENT


def test_what_arrived_before_the_end_stays(server: Any, partial: Path) -> None:
    server.faults["f"] = ["drop", "503", "503"]
    with pytest.raises(DataError, match="what has arrived stays"):
        fetch(server, partial)
    assert partial.read_bytes() == CONTENT[:512]


def test_a_server_that_is_not_there_is_named(partial: Path) -> None:
    with pytest.raises(DataError, match=r"cannot fetch http://127\.0\.0\.1:1/f"):
        fetch_file("http://127.0.0.1:1/f", partial, QUICK)


def test_a_full_disk_is_named_and_not_retried(
    server: Any, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match=r"cannot write .*f\.part \(No space left on device\)"):
        fetch(server, partial)
    assert len(server.requests) == 1


def test_the_pause_doubles_and_heeds_the_server(
    server: Any, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("biomamba.data.remote.time.sleep", pauses.append)
    server.faults["f"] = ["503"] * 3
    server.retry_after_seconds = 3
    patience = Patience(attempts=5, first_pause_seconds=1.5)
    fetch_file(f"{server.url}f", partial, patience)
    assert pauses == [3.0, 3.0, 6.0]


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"first_pause_seconds": -1.0}, {"timeout_seconds": 0.0}]
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Patience(**options)
