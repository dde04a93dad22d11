"""Which failures of a stream pass."""

import errno
import gzip
from typing import Any

import datasets
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled
from pyarrow import ArrowInvalid

from biomamba.data import remote as hub_faults
from biomamba.data.remote import Faults, Patience
from biomamba.runtime.errors import DataError

QUICK = Patience(attempts=3, first_pause_seconds=0.0, timeout_seconds=0.3)


class AnswerError(OSError):
    """An error as aiohttp raises it for a status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status}")
        self.status = status


class HubAnswerError(OSError):
    """An error as the hub library raises it for a status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status}")
        self.response = type("Response", (), {"status_code": status})()


def wrapped(cause: Exception) -> Exception:
    """An error as `datasets` hides it."""
    error = ConnectionError("Server Disconnected")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("kind", [AnswerError, HubAnswerError])
def test_a_status_that_passes_is_borne(kind: Any, status: int) -> None:
    Faults("s", QUICK).failed(wrapped(kind(status)))


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "log in"), (403, "log in"), (404, "check the name"), (410, "file")]
)
@pytest.mark.parametrize("kind", [AnswerError, HubAnswerError])
def test_a_status_that_stays_is_named_at_once(kind: Any, status: int, advice: str) -> None:
    with pytest.raises(DataError, match=f"s answers {status}; .*{advice}"):
        Faults("s", QUICK).failed(wrapped(kind(status)))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset"),
        TimeoutError("slow"),
        OSError(errno.ENETUNREACH, "no network"),
        OSError(-3, "Temporary failure in name resolution"),
        wrapped(TimeoutError()),
    ],
)
def test_faults_of_the_network_are_borne(error: Exception) -> None:
    Faults("s", QUICK).failed(error)


@pytest.mark.parametrize(
    "error",
    [
        ArrowInvalid("not JSON"),
        KeyError("column"),
        EOFError("cut"),
        gzip.BadGzipFile("not gzip"),
        OSError("Couldn't deserialize thrift: damaged page"),
        PermissionError("no right"),
        datasets.exceptions.DatasetNotFoundError("no such dataset"),
    ],
)
def test_content_that_is_wrong_is_named_at_once(error: Exception) -> None:
    with pytest.raises(DataError, match="s does not hold what the settings say"):
        Faults("s", QUICK).failed(error)


def test_offline_mode_is_named_at_once() -> None:
    error = ConnectionError("no hub")
    error.__context__ = OfflineModeIsEnabled("offline")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        Faults("s", QUICK).failed(error)


def test_patience_ends_after_failures_in_a_row() -> None:
    faults = Faults("s", QUICK)
    for _ in range(2):
        faults.failed(TimeoutError("slow"))
    faults.passed()
    for _ in range(2):
        faults.failed(TimeoutError("slow"))
    with pytest.raises(DataError, match=r"cannot read s \(TimeoutError: slow, 3 failures in a row"):
        faults.failed(TimeoutError("slow"))


def test_the_pause_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(hub_faults.time, "sleep", pauses.append)
    faults = Faults("s", Patience(attempts=9, first_pause_seconds=2.0))
    for _ in range(8):
        faults.failed(TimeoutError())
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0]


@pytest.mark.parametrize(("fault", "is_borne"), [("503", True), ("404", False), ("", True)])
def test_a_missing_file_is_asked_for(fault: str, is_borne: bool, fault_server: Any) -> None:
    fault_server.files["f"] = b"content"
    fault_server.faults["f"] = [fault] if fault else []
    faults = Faults("s", QUICK, urls=[f"{fault_server.url}f"])
    if is_borne:
        faults.failed(FileNotFoundError("Unable to find f"))
    else:
        with pytest.raises(DataError, match="s answers 404"):
            faults.failed(FileNotFoundError("Unable to find f"))


def test_a_file_that_is_not_on_the_disk_is_named_at_once() -> None:
    with pytest.raises(DataError, match=r"does not hold what the settings say .*no/such/file"):
        Faults("s", QUICK).failed(FileNotFoundError("no/such/file"))


def test_a_server_that_is_not_there_is_borne() -> None:
    Faults("s", QUICK, urls=["http://127.0.0.1:1/f"]).failed(FileNotFoundError("f"))


@pytest.mark.parametrize(("status", "is_borne"), [(503, True), (404, False), (None, True)])
def test_a_missing_dataset_is_asked_for(
    status: int | None, is_borne: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hub:
        def dataset_info(self, dataset: str, **options: Any) -> None:
            assert (dataset, options["revision"]) == ("some/set", "abc")
            if status is not None:
                raise HubAnswerError(status)

    monkeypatch.setattr(hub_faults, "HfApi", Hub)
    faults = Faults("s", QUICK, dataset="some/set", revision="abc")
    if is_borne:
        faults.failed(FileNotFoundError("nothing"))
    else:
        with pytest.raises(DataError, match="s answers 404"):
            faults.failed(FileNotFoundError("nothing"))
