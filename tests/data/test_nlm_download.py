"""Mirroring PubMed from a server with faults, and from a folder."""

import fcntl
import shutil
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.nlm_download import NlmMirror, check_file, md5_of, parse_md5
from biomamba.data.remote import Patience
from biomamba.runtime.errors import ConfigError, DataError

QUICK = Patience(attempts=3, first_pause_seconds=0.0, timeout_seconds=0.3)
NAMES = ("pubmed26n0001.xml.gz", "pubmed26n0002.xml.gz", "pubmed26n0003.xml.gz")
PLACES = [f"baseline/{NAMES[0]}", f"baseline/{NAMES[1]}", f"updatefiles/{NAMES[2]}"]
HASH = "0123456789abcdef0123456789abcdef"


def content_of(name: str) -> bytes:
    return name.encode() * 50


def record_of(name: str) -> bytes:
    return f"MD5({name})= {md5(content_of(name)).hexdigest()}\n".encode()


@pytest.fixture
def server(fault_server: Any) -> Any:
    """Return a server that lists two baseline files and one update file."""
    for part, names in (("baseline", NAMES[:2]), ("updatefiles", NAMES[2:])):
        links = "".join(f'<a href="{n}">{n}</a> <a href="{n}.md5">{n}.md5</a>\n' for n in names)
        links += '<a href="../">up</a> <a href="README.txt">r</a> <a href="../../pubmed.gz">x</a>'
        fault_server.files[f"{part}/"] = f"<html><pre>{links}</pre></html>".encode()
        for name in names:
            fault_server.files[f"{part}/{name}"] = content_of(name)
            fault_server.files[f"{part}/{name}.md5"] = record_of(name)
    return fault_server


def mirror(server: Any, folder: Path, **options: Any) -> NlmMirror:
    return NlmMirror(server.url, str(folder), patience=QUICK, **options)


def assert_complete(paths: list[Path], folder: Path) -> None:
    assert paths == [folder / place for place in PLACES]
    assert [path.read_bytes() for path in paths] == [content_of(name) for name in NAMES]
    assert not list(folder.rglob("*.part"))


def fetched(server: Any) -> list[str]:
    return [path for path, _ in server.requests if path.endswith(".gz")]


def test_all_parts_are_fetched_in_order(server: Any, tmp_path: Path) -> None:
    assert_complete(mirror(server, tmp_path).files(), tmp_path)
    assert fetched(server) == PLACES


def test_good_files_are_kept_without_a_question(server: Any, tmp_path: Path) -> None:
    mirror(server, tmp_path).files()
    server.requests.clear()
    assert_complete(mirror(server, tmp_path).files(), tmp_path)
    assert [path for path, _ in server.requests] == ["baseline/", "updatefiles/"]


def test_a_good_file_without_its_md5_is_kept(server: Any, tmp_path: Path) -> None:
    mirror(server, tmp_path).files()
    (tmp_path / f"{PLACES[0]}.md5").unlink()
    server.requests.clear()
    assert_complete(mirror(server, tmp_path).files(), tmp_path)
    assert fetched(server) == []


def test_a_damaged_file_is_fetched_anew(server: Any, tmp_path: Path) -> None:
    mirror(server, tmp_path).files()
    (tmp_path / PLACES[1]).write_bytes(b"damaged")
    server.requests.clear()
    assert_complete(mirror(server, tmp_path).files(), tmp_path)
    assert fetched(server) == [PLACES[1]]


def test_a_partial_file_is_continued(server: Any, tmp_path: Path) -> None:
    (tmp_path / "baseline").mkdir()
    (tmp_path / f"{PLACES[0]}.part").write_bytes(content_of(NAMES[0])[:700])
    assert_complete(mirror(server, tmp_path).files(), tmp_path)
    assert (PLACES[0], "bytes=700-") in server.requests


@pytest.mark.parametrize("size", [700, 5000])
def test_a_partial_file_of_other_bytes_begins_anew(size: int, server: Any, tmp_path: Path) -> None:
    (tmp_path / "baseline").mkdir()
    (tmp_path / f"{PLACES[0]}.part").write_bytes(b"x" * size)
    assert_complete(mirror(server, tmp_path).files(), tmp_path)


@pytest.mark.parametrize("fault", ["429", "503", "drop", "hang", "refuse"])
def test_faults_that_pass_change_no_byte(fault: str, server: Any, tmp_path: Path) -> None:
    server.faults = {path: [fault] for path in server.files}
    assert_complete(mirror(server, tmp_path).files(), tmp_path)


def test_other_bytes_are_fetched_anew(server: Any, tmp_path: Path) -> None:
    server.faults = {path: ["other"] for path in PLACES}
    assert_complete(mirror(server, tmp_path).files(), tmp_path)


def test_bytes_that_never_agree_are_refused(server: Any, tmp_path: Path) -> None:
    server.faults[PLACES[0]] = ["other", "other"]
    with pytest.raises(DataError, match=rf"{NAMES[0]} does not agree with its MD5"):
        mirror(server, tmp_path).files()
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / PLACES[0]).exists()


@pytest.mark.parametrize("path", ["baseline/", PLACES[0], f"{PLACES[0]}.md5"])
@pytest.mark.parametrize("status", ["403", "404"])
def test_refusals_name_the_address(status: str, path: str, server: Any, tmp_path: Path) -> None:
    server.faults[path] = [status]
    with pytest.raises(DataError, match=rf"/{path} answers {status}"):
        mirror(server, tmp_path).files()


def test_a_page_that_lists_nothing_is_refused(server: Any, tmp_path: Path) -> None:
    server.files["updatefiles/"] = b"<html>Under maintenance</html>"
    with pytest.raises(DataError, match="updatefiles/ lists no file such as"):
        mirror(server, tmp_path).files()


def test_a_trial_takes_the_first_files(server: Any, tmp_path: Path) -> None:
    paths = mirror(server, tmp_path, max_files=1, parts=["baseline"]).files()
    assert paths == [tmp_path / PLACES[0]]


def test_two_at_once_are_refused(server: Any, tmp_path: Path) -> None:
    (tmp_path / "baseline").mkdir()
    with (tmp_path / "baseline" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is fetching into"):
            mirror(server, tmp_path).files()


def test_a_local_folder_is_read_in_place(server: Any, tmp_path: Path) -> None:
    mirror(server, tmp_path / "copy").files()
    server.requests.clear()
    paths = NlmMirror(str(tmp_path / "copy"), str(tmp_path / "unused")).files()
    assert_complete(paths, tmp_path / "copy")
    assert server.requests == []
    assert not (tmp_path / "unused").exists()


def test_a_damaged_local_file_is_refused(server: Any, tmp_path: Path) -> None:
    mirror(server, tmp_path).files()
    (tmp_path / PLACES[1]).write_bytes(b"damaged")
    with pytest.raises(DataError, match=rf"{NAMES[1]} does not agree with"):
        NlmMirror(str(tmp_path), "unused").files()


def test_a_local_file_without_md5_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAMES[0]).touch()
    with pytest.raises(DataError, match=rf"has no {NAMES[0]}\.md5 beside it"):
        check_file(tmp_path / NAMES[0])


def test_an_empty_local_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="baseline lists no file"):
        NlmMirror(str(tmp_path), "unused").files()


@pytest.mark.parametrize("line", [f"MD5(f)= {HASH}", f"MD5 (f) = {HASH.upper()}\n"])
def test_md5_files(line: str) -> None:
    assert parse_md5(line.encode(), "f") == HASH


@pytest.mark.parametrize("line", ["", f"MD5(g)= {HASH}", "MD5(f)= 12", "<html>", f"{HASH}  f"])
def test_other_md5_files_are_refused(line: str) -> None:
    with pytest.raises(DataError, match="the MD5 file of f holds"):
        parse_md5(line.encode(), "f")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "ftp://ftp.ncbi.nlm.nih.gov/pubmed/"}, "use https, http or a path"),
        ({"parts": []}, "parts is empty"),
        ({"parts": ["../etc"]}, "no plain folder names"),
        ({"max_files": 0}, "max_files must be .*, found 0"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NlmMirror(**({"base_url": "https://x", "folder": "f"} | options))


def test_a_real_file_agrees_with_its_real_md5(real_data: Path, tmp_path: Path) -> None:
    name = "pubmed26n1334.xml.gz"
    (tmp_path / "baseline").mkdir()
    for file in (name, f"{name}.md5"):
        shutil.copy(real_data / "pubmed-xml" / file, tmp_path / "baseline")
    paths = NlmMirror(str(tmp_path), "unused", parts=["baseline"]).files()
    assert [md5_of(path) for path in paths] == ["3cf53ba34ff73126e42d1d8391330e73"]
