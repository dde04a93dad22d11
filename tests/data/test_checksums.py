"""Expected hashes: what is compared, what is refused."""

import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from biomamba.data.raw_shards import Checksums
from biomamba.runtime.errors import DataError


def write(folder: Path, content: str) -> Path:
    path = folder / "SHA256SUMS"
    path.write_text(content)
    return path


def test_what_sha256sum_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "note").mkdir()
    raw = tmp_path / "note" / "a b.csv"
    raw.write_bytes(b"x")
    written = subprocess.run(
        ["sha256sum", "note/a b.csv"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    checksums = Checksums.read(write(tmp_path, written.stdout))

    checksums.check(raw, sha256(b"x").hexdigest())
    with pytest.raises(DataError, match=r"a b\.csv is not the file that .*SHA256SUMS lists"):
        checksums.check(raw, sha256(b"y").hexdigest())


@pytest.mark.parametrize("gap", ["  ", " *", " "])
def test_every_writer_is_read(gap: str, tmp_path: Path) -> None:
    """As text, as binary, and as PhysioNet writes it; upper case as other tools do."""
    digest = sha256(b"x").hexdigest()
    checksums = Checksums.read(write(tmp_path, f"{digest.upper()}{gap}note/a.csv\n"))
    checksums.check(tmp_path / "note" / "a.csv", digest)


def test_a_file_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    checksums = Checksums.read(write(tmp_path, f"{'0' * 64}  a.csv\n"))
    with pytest.raises(DataError, match=r"SHA256SUMS does not list .*b\.csv"):
        checksums.check(tmp_path / "b.csv", "0" * 64)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "lists no checksum"),
        (f"{'0' * 64}  a\nbroken\n", "SHA256SUMS:2 is no checksum"),
        (f"{'0' * 63}  a\n", "SHA256SUMS:1 is no checksum"),
        (f"{'0' * 64}  \n", "SHA256SUMS:1 is no checksum"),
    ],
)
def test_a_list_of_another_form_is_refused(content: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=match):
        Checksums.read(write(tmp_path, content))


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the checksums .*gone"):
        Checksums.read(tmp_path / "gone")
