"""The keys of one file, and the record of them that spares the next parse."""

import gzip
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from biomamba.data.corpora import medline as file_keys
from biomamba.data.corpora.medline import FileKeys, cached_keys, read_keys
from biomamba.data.corpora.pubmed_xml import MAX_PMID, MAX_VERSION
from biomamba.runtime.errors import DataError


def citation(pmid: int, version: int = 1) -> str:
    return f'<MedlineCitation><PMID Version="{version}">{pmid}</PMID></MedlineCitation>'


def write(path: Path, body: str) -> Path:
    path.write_text(f"<MedlineCitationSet>{body}</MedlineCitationSet>")
    return path


def lists(keys: FileKeys) -> tuple[list[int], list[int], list[int]]:
    return keys.pmids.tolist(), keys.versions.tolist(), keys.deleted.tolist()


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of files parsed so far."""
    parsed: list[Path] = []

    def _read(path: Path) -> FileKeys:
        parsed.append(path)
        return read_keys(path)

    monkeypatch.setattr(file_keys, "read_keys", _read)
    return parsed


def test_keys_of_a_file(tmp_path: Path) -> None:
    deletion = "<DeleteCitation><PMID>5</PMID><PMID>6</PMID></DeleteCitation>"
    body = citation(7, 2) + "<MedlineCitation/>" + citation(3) + deletion
    found = read_keys(write(tmp_path / "a.xml", body))

    assert found.pmids.tolist() == [7, 0, 3]
    assert found.versions.tolist() == [2, 0, 1]
    assert found.deleted.tolist() == [5, 6]


BODY = (
    citation(7, 2)
    + "<MedlineCitation/>"
    + citation(MAX_PMID, MAX_VERSION)
    + f"<DeleteCitation><PMID>5</PMID><PMID>{MAX_PMID}</PMID></DeleteCitation>"
)
WANT = ([7, 0, MAX_PMID], [2, 0, MAX_VERSION], [5, MAX_PMID])


@pytest.mark.parametrize("body", [BODY, ""])
def test_a_record_spares_the_parse_and_gives_the_same_keys(
    body: str, tmp_path: Path, parses: list[Path]
) -> None:
    path = write(tmp_path / "a.xml", body)
    first, second = (cached_keys(path, tmp_path / "cache") for _ in range(2))

    assert parses == [path]
    assert lists(first) == lists(second) == (WANT if body else ([], [], []))
    for name in ("pmids", "versions", "deleted"):
        assert getattr(first, name).dtype == getattr(second, name).dtype


def test_without_a_folder_nothing_is_kept(tmp_path: Path, parses: list[Path]) -> None:
    path = write(tmp_path / "a.xml", BODY)
    assert lists(cached_keys(path, None)) == lists(cached_keys(path, None)) == WANT
    assert len(parses) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.xml"]


def test_a_changed_file_is_parsed_again_also_with_its_old_size_and_time(
    tmp_path: Path, parses: list[Path]
) -> None:
    path = write(tmp_path / "a.xml", citation(1))
    cached_keys(path, tmp_path / "cache")
    time = path.stat().st_mtime_ns
    write(path, citation(2))
    os.utime(path, ns=(time, time))

    assert cached_keys(path, tmp_path / "cache").pmids.tolist() == [2]
    assert len(parses) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_record_of_another_format_is_read_anew(
    tmp_path: Path, parses: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.xml", BODY)
    cached_keys(path, tmp_path / "cache")
    monkeypatch.setattr(file_keys, "_FORMAT_VERSION", -1)
    assert lists(cached_keys(path, tmp_path / "cache")) == WANT
    assert len(parses) == 2


def test_any_damage_of_a_record_is_noticed(tmp_path: Path, parses: list[Path]) -> None:
    """Flip a bit of every byte, cut at every place: the keys never differ."""
    path = write(tmp_path / "a.xml", BODY)
    cached_keys(path, tmp_path / "cache")
    (record,) = (tmp_path / "cache").iterdir()
    whole = record.read_bytes()
    damaged = [
        whole[:n] + bytes([whole[n] ^ 1 << n % 8]) + whole[n + 1 :] for n in range(len(whole))
    ]
    damaged += [whole[:n] for n in range(0, len(whole), 7)]
    for content in damaged:
        record.write_bytes(content)
        assert lists(cached_keys(path, tmp_path / "cache")) == WANT
        assert record.read_bytes() == whole
    assert len(parses) == 1 + len(damaged)


def test_a_folder_that_cannot_be_written_only_costs_time(
    tmp_path: Path, parses: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.xml", BODY)
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert lists(cached_keys(path, tmp_path / "file" / "cache")) == WANT
    assert "the keys of a.xml are not kept" in caplog.text


def test_many_readers_of_one_folder_agree(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xml", BODY)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: lists(cached_keys(path, tmp_path / "cache")), range(64)))
    assert found == [WANT] * 64
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["a.xml.json"]


def test_a_file_replaced_during_the_parse_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.xml", citation(1))

    def _replaced(path: Path) -> FileKeys:
        keys = read_keys(path)
        write(path, citation(2))
        return keys

    monkeypatch.setattr(file_keys, "read_keys", _replaced)
    with pytest.raises(DataError, match=r"a\.xml changed while it was read"):
        cached_keys(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_is_never_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<MedlineCitationSet>")
    for _ in range(2):
        with pytest.raises(DataError, match=r"a\.xml to its end"):
            cached_keys(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*gone\.xml"):
        cached_keys(tmp_path / "gone.xml", tmp_path / "cache")


def test_a_record_is_small(tmp_path: Path) -> None:
    """30,000 citations, as in a file of the baseline: below 6 bytes each."""
    body = "".join(citation(pmid) for pmid in range(30_000_001, 30_030_001))
    path = tmp_path / "a.xml.gz"
    path.write_bytes(gzip.compress(f"<MedlineCitationSet>{body}</MedlineCitationSet>".encode()))
    keys = cached_keys(path, tmp_path / "cache")

    assert np.array_equal(keys.pmids, np.arange(30_000_001, 30_030_001))
    assert (tmp_path / "cache" / "a.xml.gz.json").stat().st_size < 6 * 30_000
