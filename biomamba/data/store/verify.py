"""Compare every file of token stores with the records: changed, cut, missing, unexpected."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from biomamba.data.prepare.staging import STAGING_NAME, StagedRecord, StagedShard
from biomamba.data.store.format import (
    CONTAMINATION_NAME,
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    ShardRecord,
    file_problems,
)
from biomamba.data.tokenizer import TOKENIZER_FILES, load_tokenizer
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import LOCK_NAME, read_sealed

Report = Callable[[int], object]


@dataclass(frozen=True)
class StoreCheck:
    """What was found in one store.

    Attributes:
        folder: The store.
        manifest: None if it is missing or damaged.
        num_files: Files in the folder, locks aside.
        size_bytes: Their size.
        problems: Every deviation, naming its file.
    """

    folder: Path
    manifest: Manifest | None
    num_files: int
    size_bytes: int
    problems: list[str]


def check_store(folder: Path, report: Report) -> StoreCheck:
    """Hash every file of a store; `report` is told the bytes."""
    present = store_files(folder)
    problems: list[str] = []
    manifest = None
    try:
        manifest = Manifest.read(folder)
    except DataError as error:
        problems.append(str(error))
    expected = _token_files(folder, problems) if manifest is None else dict(manifest.files)
    staged = _staged_shards(folder, manifest)
    expected |= _staged_files(staged, problems, needs_tokens=manifest is None)
    deviations = file_problems(folder, expected, is_full=True, report=report)
    problems.extend(f"{folder}/{deviation}" for deviation in deviations)
    known = {folder / name for name in (*expected, MANIFEST_NAME)}
    # The files of a damaged record cannot be checked, but they belong there.
    known |= {path for shard in staged for path in shard.paths()}
    if manifest is None:
        known |= set(folder.glob("[0-9]*.json"))
    problems.extend(f"{path} is unexpected" for path in present if path not in known)
    size_bytes = sum(path.stat().st_size for path in present)
    return StoreCheck(folder, manifest, len(present), size_bytes, problems)


def check_set_files(folder: Path) -> list[str]:
    """Check what is beside the stores of a set and return the problems."""
    problems = []
    try:
        load_tokenizer(folder)
        read_sealed(folder / CONTAMINATION_NAME)
    except DataError as error:
        problems.append(str(error))
    known = {*TOKENIZER_FILES, CONTAMINATION_NAME}
    problems.extend(
        f"{path} is unexpected"
        for path in sorted(folder.iterdir())
        if path.is_file() and not _is_lock(path) and path.name not in known
    )
    return problems


def set_folders(folder: Path) -> list[Path]:
    """Return the stores of a set.

    Raises:
        DataError: If there is no such set, or no store in it.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not folders:
        raise DataError(
            f"{folder} holds no token stores; write them with `python -m biomamba.prepare`, or "
            "name others with name=... or stores=[...]"
        )
    return folders


def store_files(folder: Path) -> list[Path]:
    """Return the files of a store, locks aside."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not _is_lock(p))


def _token_files(folder: Path, problems: list[str]) -> dict[str, FileRecord]:
    """Return what the shard records name, for a store without a manifest."""
    files: dict[str, FileRecord] = {}
    for path in sorted(folder.glob("[0-9]*.json")):
        try:
            files |= ShardRecord.read(path).files
        except DataError as error:
            problems.append(str(error))
    return files


def _staged_shards(folder: Path, manifest: Manifest | None) -> list[StagedShard]:
    """Return the staged shards; a store may have been copied without any of them."""
    staging = folder / STAGING_NAME
    if not staging.is_dir():
        return []
    if manifest is None:
        numbers = [int(path.stem) for path in sorted(staging.glob("[0-9]*.json"))]
    else:
        numbers = list(range(len(manifest.shards)))
    return [StagedShard(staging, number) for number in numbers]


def _staged_files(
    shards: list[StagedShard], problems: list[str], *, needs_tokens: bool
) -> dict[str, FileRecord]:
    files: dict[str, FileRecord] = {}
    for staged in shards:
        try:
            record = StagedRecord.read(staged.record_path)
        except DataError as error:
            problems.append(str(error))
            continue
        own = staged.files(record, needs_tokens=needs_tokens)
        files |= {f"{STAGING_NAME}/{name}": file for name, file in own.items()}
    return files


def _is_lock(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(LOCK_NAME)
