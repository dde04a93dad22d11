"""Whether a folder can hold a run: room, speed, and files that are whole or not there."""

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from biomamba.data.store.format import MANIFEST_NAME, Manifest, file_problems
from biomamba.data.tokenizer import load_tokenizer
from biomamba.diagnosis.machine import Finding, ok, problem, warning
from biomamba.runtime.errors import DataError
from biomamba.runtime.files import write_bytes

_MB, _GB = 10**6, 10**9
_PROBE_BYTES = 64 * _MB
_MIN_FREE_GB, _USUAL_FREE_GB = 1, 20
_SLOW_MB_PER_SECOND = 50
_REPLACEMENTS = 40


def check_run_folder(folder: Path, size_bytes: int = _PROBE_BYTES) -> Iterator[Finding]:
    """Check the file system that a run folder would be on; nothing stays there."""
    topic, place = "run folder", existing_parent(folder)
    yield _room(place)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as temporary:
            yield _speed(Path(temporary), place, size_bytes)
            yield _atomicity(Path(temporary), place)
    except OSError as error:
        yield problem(
            topic,
            f"{place} cannot be written: {error.strerror or error}",
            "set paths.run_dir=<folder that you may write>",
        )


def existing_parent(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.is_dir())


def _room(place: Path) -> Finding:
    free = shutil.disk_usage(place).free / _GB
    text = f"{free:,.1f} GB free at {place}"
    remedy = "make room, or set paths.run_dir; biomamba.plan says what a run needs"
    if free < _MIN_FREE_GB:
        return problem("disk", text, remedy)
    if free < _USUAL_FREE_GB:
        return warning("disk", f"{text}: enough for small models only", remedy)
    return ok("disk", text)


def _speed(temporary: Path, place: Path, size_bytes: int) -> Finding:
    content = secrets.token_bytes(min(size_bytes, _MB)) * max(1, size_bytes // _MB)
    begin = time.perf_counter()
    write_bytes(temporary / "speed", content)
    rate = len(content) / _MB / (time.perf_counter() - begin)
    text = f"{rate:,.0f} MB/s written and synced at {place}"
    if rate < _SLOW_MB_PER_SECOND:
        remedy = "set callbacks.checkpoint.in_background=true, or another paths.run_dir"
        return warning(
            "write speed", f"{text}: a checkpoint of 1 GB takes {1e3 / rate:.0f} s", remedy
        )
    return ok("write speed", text)


def _atomicity(temporary: Path, place: Path) -> Finding:
    """Replace a file again and again while another thread reads it."""
    path, faults, stop = temporary / "atomic", list[str](), threading.Event()
    contents = [bytes([number]) * 4_096 for number in range(2)]
    write_bytes(path, contents[0])

    def read() -> None:
        while not stop.is_set():
            try:
                found = path.read_bytes()
            except OSError as error:
                faults.append(f"it was gone for a moment ({error.strerror})")
            else:
                if found not in contents:
                    faults.append(f"half a file was seen ({len(found)} bytes)")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(_REPLACEMENTS):
            write_bytes(path, contents[number % 2])
    finally:
        stop.set()
        reader.join()
    if faults:
        return problem(
            "atomic rename",
            f"at {place} a file that was replaced could be read in between: {faults[0]}",
            "set paths.run_dir to a file system with atomic rename (local disk, NFS, Lustre)",
        )
    return ok("atomic rename", f"{_REPLACEMENTS} replacements at {place}, always a whole file seen")


# -------------------------------------------------------------------------------------------------
# Tokenizers and token stores below the data folder.
# -------------------------------------------------------------------------------------------------

_PREPARE = "python -m biomamba.prepare +experiment=... writes them"
_MAX_SETS = 20


def check_stores(data_dir: Path) -> Iterator[Finding]:
    """Look at every set of stores: tokenizer, manifests, sizes of files; nothing is hashed."""
    sets = sorted({path.parent.parent for path in data_dir.glob(f"*/*/{MANIFEST_NAME}")})
    if not sets:
        yield warning("token stores", f"none below {data_dir.absolute()}", _PREPARE)
    for folder in sets[:_MAX_SETS]:
        yield from check_set(folder)
    if len(sets) > _MAX_SETS:
        yield ok("token stores", f"{len(sets) - _MAX_SETS} more sets were not looked at")


def check_set(folder: Path) -> Iterator[Finding]:
    """Check one set: all of its stores must be whole and of its tokenizer."""
    topic = f"set {folder.name}"
    try:
        tokenizer = load_tokenizer(folder)
    except DataError as error:
        yield problem(topic, str(error), "prepare the set again with overwrite=true")
        return
    faults, names, tokens = [], [], 0
    for path in sorted(folder.glob(f"*/{MANIFEST_NAME}")):
        try:
            manifest = Manifest.read(path.parent)
        except DataError as error:
            faults.append(str(error))
            continue
        names.append(path.parent.name)
        tokens += sum(total.tokens for total in manifest.totals.values())
        if manifest.tokenizer != tokenizer.fingerprint:
            faults.append(f"{path.parent} was made with another tokenizer")
        files = dict(manifest.files)
        faults += file_problems(path.parent, files, is_full=False, report=lambda _: None)
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        remedy = f"python -m biomamba.verify name={folder.name} names all of it"
        yield problem(topic, f"{faults[0]}{more}", remedy)
    else:
        yield ok(
            topic,
            f"{', '.join(names)}: {tokens:,} tokens, tokenizer of {tokenizer.vocab_size:,} ids; "
            "sizes of all files are right (biomamba.verify compares the bytes)",
        )
