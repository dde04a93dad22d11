"""Which record counts, against a slow simulation and on real files."""

import gzip
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from biomamba.data.corpora.medline import Fate, FileKeys, decide, read_all_keys
from biomamba.runtime.errors import DataError

Key = tuple[int, int]


def keys(records: Sequence[Key], deleted: Sequence[int] = ()) -> FileKeys:
    return FileKeys(
        pmids=np.array([pmid for pmid, _ in records], dtype=np.uint32),
        versions=np.array([version for _, version in records], dtype=np.uint16),
        deleted=np.array(deleted, dtype=np.uint32),
    )


def fates(*files: FileKeys) -> list[list[Fate]]:
    return [[Fate(value) for value in file] for file in decide(files)]


KEPT, REVISED, DELETED, OLDER = Fate.KEPT, Fate.REVISED, Fate.DELETED, Fate.OLDER


def test_the_highest_version_in_a_file_stands_wherever_it_is() -> None:
    assert fates(keys([(1, 1), (1, 3), (2, 1), (1, 2)])) == [[OLDER, KEPT, KEPT, OLDER]]


def test_the_last_of_equal_versions_stands() -> None:
    assert fates(keys([(1, 2), (1, 2)])) == [[REVISED, KEPT]]


def test_a_later_file_revises_even_a_higher_version() -> None:
    assert fates(keys([(1, 2), (2, 1)]), keys([(1, 1)])) == [[REVISED, KEPT], [KEPT]]


def test_a_deletion_takes_earlier_records_and_those_of_its_own_file() -> None:
    first, second = keys([(1, 1), (2, 1), (3, 1)]), keys([(2, 1)], deleted=[2, 3])
    assert fates(first, second) == [[KEPT, REVISED, DELETED], [DELETED]]


def test_a_later_file_brings_a_deleted_article_back() -> None:
    files = keys([(1, 1)]), keys([], deleted=[1]), keys([(1, 1)])
    assert fates(*files) == [[DELETED], [], [KEPT]]


def test_deleting_what_never_was_changes_nothing() -> None:
    assert fates(keys([(1, 1)]), keys([], deleted=[99_999_999])) == [[KEPT], []]


def test_records_without_pmid_do_not_revise_each_other() -> None:
    files = keys([(0, 0), (1, 1), (0, 0)]), keys([(0, 0)])
    assert fates(*files) == [[Fate.NO_PMID, KEPT, Fate.NO_PMID], [Fate.NO_PMID]]


def test_no_files_and_empty_files() -> None:
    assert decide([]) == []
    assert fates(keys([])) == [[]]


def best_records(file: FileKeys) -> dict[int, int]:
    best: dict[int, int] = {}
    for record, pmid in enumerate(map(int, file.pmids)):
        if pmid not in best or file.versions[best[pmid]] <= file.versions[record]:
            best[pmid] = record
    return best


def fates_within(file: FileKeys, best: dict[int, int]) -> list[Fate]:
    result = []
    for record, pmid in enumerate(map(int, file.pmids)):
        is_older = file.versions[record] < file.versions[best[pmid]]
        result.append(KEPT if record == best[pmid] else OLDER if is_older else REVISED)
    return result


def simulated(files: Sequence[FileKeys]) -> list[list[Fate]]:
    """Apply the files one after another to a dict, as a reader of the manual would."""
    result: list[list[Fate]] = []
    standing: dict[int, tuple[int, int]] = {}  # PMID to (file, record)
    for number, file in enumerate(files):
        best = best_records(file)
        result.append(fates_within(file, best))
        for pmid, record in best.items():
            if pmid in standing:
                result[standing[pmid][0]][standing[pmid][1]] = REVISED
            standing[pmid] = (number, record)
        for pmid in set(map(int, file.deleted)) & standing.keys():
            place = standing.pop(pmid)
            result[place[0]][place[1]] = DELETED
    return result


@pytest.mark.parametrize("seed", range(50))
def test_every_fate_is_that_of_a_simulation(seed: int) -> None:
    generator = np.random.default_rng(seed)
    files = []
    for _ in range(6):
        size = generator.integers(0, 12)
        files.append(
            FileKeys(
                pmids=generator.integers(1, 10, size).astype(np.uint32),
                versions=generator.integers(1, 4, size).astype(np.uint16),
                deleted=generator.integers(1, 10, generator.integers(0, 3)).astype(np.uint32),
            )
        )
    assert fates(*files) == simulated(files)


def write(path: Path, body: str) -> Path:
    path.write_text(f"<MedlineCitationSet>{body}</MedlineCitationSet>")
    return path


def citation(pmid: int, version: int = 1) -> str:
    return f'<MedlineCitation><PMID Version="{version}">{pmid}</PMID></MedlineCitation>'


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.xml", citation(n) + citation(9, n)) for n in range(1, 6)]
    one, two = read_all_keys(paths, 1), read_all_keys(paths, 2, tmp_path / "cache")

    assert len(list((tmp_path / "cache").iterdir())) == 5
    assert [f.pmids.tolist() for f in one] == [[n, 9] for n in range(1, 6)]
    for a, b in zip(one, two, strict=True):
        assert [a.pmids.tolist(), a.versions.tolist()] == [b.pmids.tolist(), b.versions.tolist()]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_damaged_file_is_named(num_workers: int, tmp_path: Path) -> None:
    paths = [write(tmp_path / "good.xml", ""), tmp_path / "bad.xml"]
    paths[1].write_text("<MedlineCitationSet>")
    with pytest.raises(DataError, match=r"bad\.xml to its end"):
        read_all_keys(paths, num_workers)


def test_real_baseline_and_update(real_data: Path) -> None:
    """Two of the 262 deletions of the update hit the slice of the baseline."""
    names = ("pubmed20n1015.xml.gz", "pubmed20n1016.xml.gz")
    paths = [real_data / "pubmed-xml" / name for name in names]
    texts = [gzip.decompress(path.read_bytes()).decode() for path in paths]
    pattern = r"<MedlineCitation\b[^>]*>\s*<PMID[^>]*>(\d+)"
    baseline, update = (re.findall(pattern, text) for text in texts)
    block = texts[1][texts[1].index("<DeleteCitation>") :]
    deleted = set(re.findall(r">(\d+)</PMID>", block))
    found = fates(*read_all_keys(paths, 1))

    assert len(deleted) == 262
    assert len(deleted & set(baseline)) == 2
    assert found[0].count(DELETED) == 2
    assert found[0].count(REVISED) == len(set(baseline) & set(update) - deleted)
    assert found[0].count(KEPT) == len(set(baseline) - set(update) - deleted)
