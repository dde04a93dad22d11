"""The prepare program against kills, full disks, other writers and missing rights."""

import fcntl
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_FILES = 6
ROWS_PER_FILE = 250
MIN_KILLS = 10
MAX_RUNS = 60
WORDS = [
    f"{first}{second}{third}" for first in "bdfgklmnprst" for second in "aeiou" for third in "dnrs"
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files of two corpora that share some texts; the last file is the largest."""
    folder = tmp_path_factory.mktemp("raw")
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=120)) for _ in range(NUM_FILES * ROWS_PER_FILE)]
    for name in ("a", "b"):
        for number in range(NUM_FILES // 2):
            chosen = rng.choices(texts, k=ROWS_PER_FILE * (number + 1))
            rows = [
                {
                    "text": text,
                    "id": f"{name}{number}-{i}",
                    "year": 1990 + i % 30 if i % 4 else None,
                }
                for i, text in enumerate(chosen)
            ]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}{number}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def command(raw: Path, folder: Path, *arguments: str) -> list[str]:
    """Return the command line that prepares the set in `folder`."""
    corpora = []
    for name in ("a", "b"):
        files = ",".join(str(path) for path in sorted(raw.glob(f"{name}*.jsonl")))
        corpora.append(
            f"{name}: {{_target_: biomamba.data.corpora.table.ColumnCorpus, domain: {name}, "
            "licence: none, text_columns: [text], id_column: id, "
            f"year_column: {'year' if name == 'a' else 'null'}, "
            f"rows: {{_target_: biomamba.data.rows.LocalRows, files: [{files}]}}}}"
        )
    return [
        sys.executable,
        "-m",
        "biomamba.prepare",
        "corpus=[]",
        f"+corpora={{{', '.join(corpora)}}}",
        "name=set",
        f"paths.data_dir={folder}",
        f"paths.run_dir={folder.parent}/run-{folder.name}",
        *arguments,
    ]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(
    raw: Path, folder: Path, *arguments: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(raw, folder, *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        **options,
    )


def start(raw: Path, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(raw, folder, *arguments),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=default_signals,  # noqa: PLW1509 - there are no threads here
    )


def default_signals() -> None:
    """Undo what a shell does to its background jobs, which do not hear the keyboard."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def tree(folder: Path) -> dict[str, Any]:
    """Return the bytes of every file, locks and the code in the manifests aside."""
    content: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock"):
            content[str(path.relative_to(folder))] = path.read_bytes()
            if path.name == "MANIFEST.json":  # another commit may be checked out meanwhile
                manifest = json.loads(path.read_bytes())
                content[str(path.relative_to(folder))] = {
                    key: value for key, value in manifest.items() if key not in ("code", "sha256")
                }
    return content


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """The tree of an uninterrupted run with one worker, and the seconds of one with two."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(raw, folder / "data")
    assert done.returncode == 0, done.stderr
    expected = tree(folder / "data" / "set")
    begin = time.monotonic()
    assert run(raw, folder / "again", "num_workers=2").returncode == 0
    assert tree(folder / "again" / "set") == expected
    rejects = expected["b/MANIFEST.json"]["rejects"]
    assert rejects["duplicate text"] > 0
    stems = {name[: -len(".bin")] for name in expected if name.endswith(".bin")}
    facts = {name for name in expected if name.endswith(".facts")}
    assert facts == {f"{stem}.facts" for stem in stems if stem.startswith("a/")}
    return expected, time.monotonic() - begin


def start_and_kill(
    raw: Path, folder: Path, delays: Sequence[float], commands: Sequence[Sequence[str]]
) -> list[int]:
    """Start processes side by side, kill each after its delay and return their codes."""
    processes = [start(raw, folder, *arguments) for arguments in commands]
    begin = time.monotonic()
    for delay, process in sorted(zip(delays, processes, strict=True), key=lambda pair: pair[0]):
        time.sleep(max(0.0, begin + delay - time.monotonic()))
        process.send_signal(signal.SIGKILL)
    codes = [process.wait() for process in processes]
    assert set(codes) <= {0, -signal.SIGKILL}
    return codes


def test_kills_at_random_moments_change_no_byte(
    raw: Path, tmp_path: Path, whole: tuple[dict[str, Any], float]
) -> None:
    expected, seconds = whole
    rng = random.Random(0)
    num_kills = num_done = 0
    for _ in range(MAX_RUNS):
        folder = tmp_path / f"data{num_done}"
        delays = [rng.uniform(0.3 * seconds, seconds)]
        if start_and_kill(raw, folder, delays, [["num_workers=2"]]) != [0]:
            num_kills += 1
        else:
            assert tree(folder / "set") == expected
            num_done += 1
        if num_kills >= MIN_KILLS:
            break
    assert num_kills >= MIN_KILLS
    assert run(raw, folder, "num_workers=2").returncode == 0
    assert tree(folder / "set") == expected


def test_kills_of_parts_side_by_side_change_no_byte(
    raw: Path, tmp_path: Path, whole: tuple[dict[str, Any], float]
) -> None:
    expected, seconds = whole
    rng = random.Random(1)
    num_kills = num_done = 0
    parts = [["part=1/2", "num_workers=2"], ["part=2/2"]]
    for _ in range(MAX_RUNS):
        folder = tmp_path / f"data{num_done}"
        delays = [rng.uniform(0.3 * seconds, seconds) for _ in parts]
        codes = start_and_kill(raw, folder, delays, parts)
        num_kills += sum(code != 0 for code in codes)
        if num_kills >= MIN_KILLS:
            break
        if codes == [0, 0]:
            start_and_kill(raw, folder, [rng.uniform(0.3 * seconds, seconds)], [[]])
            assert run(raw, folder).returncode == 0
            assert tree(folder / "set") == expected
            num_done += 1
    assert num_kills >= MIN_KILLS
    assert run(raw, folder).returncode == 0
    assert tree(folder / "set") == expected


def test_an_interruption_from_the_keyboard_ends_all_processes(
    raw: Path, tmp_path: Path, whole: tuple[dict[str, Any], float]
) -> None:
    expected, _ = whole
    folder = tmp_path / "data"
    process = start(raw, folder, "num_workers=2")
    while not list(folder.glob("set/*/staging/*.json")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    deadline = time.monotonic() + 30
    while is_group_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_group_alive(process.pid)
    assert not list(folder.rglob("*.tmp"))
    assert run(raw, folder, "num_workers=2").returncode == 0
    assert tree(folder / "set") == expected


def is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("limit_bytes", [200_000, 600_000])
def test_want_of_room_is_one_error_and_a_rerun_completes(
    limit_bytes: int,
    num_workers: int,
    raw: Path,
    tmp_path: Path,
    whole: tuple[dict[str, Any], float],
) -> None:
    expected, _ = whole
    folder = tmp_path / "data"

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    workers = f"num_workers={num_workers}"
    done = run(raw, folder, workers, preexec_fn=no_large_files)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert "make room" in done.stderr
    assert not list(folder.rglob("*.tmp"))
    assert run(raw, folder, workers).returncode == 0
    assert tree(folder / "set") == expected


def test_a_folder_that_cannot_be_written_is_one_error(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o500)
    # Root may write everywhere but there.
    target = Path("/proc/biomamba") if os.geteuid() == 0 else folder / "data"
    done = run(raw, target, f"paths.run_dir={tmp_path}/run")
    assert done.returncode == 2, done.stderr
    assert f"error: cannot write in {target}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_writer_is_refused_and_harms_nothing(
    raw: Path, tmp_path: Path, whole: tuple[dict[str, Any], float]
) -> None:
    expected, _ = whole
    folder = tmp_path / "data"
    first = start(raw, folder, "num_workers=2")
    while not is_locked(folder / "set" / ".lock"):
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    for arguments in ([], ["part=1/2"], ["overwrite=true"]):
        done = run(raw, folder, *arguments)
        assert done.returncode == 2
        assert "error: another process is preparing" in done.stderr
    first.send_signal(signal.SIGCONT)
    assert first.wait(120) == 0
    assert tree(folder / "set") == expected


def is_locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def test_an_error_in_a_worker_is_one_error_and_keeps_what_is_staged(
    raw: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "raw"
    damaged.mkdir()
    for path in raw.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    with (damaged / "b0.jsonl").open("a") as file:
        file.write("no json\n" * 9)
    done = run(damaged, tmp_path / "data", "num_workers=2")
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert "9 of 259 rows of raw shard b0.jsonl are damaged" in done.stderr
    assert "Traceback" not in done.stderr
    # The worker that met the damage had staged a shard before; the other one may be at its first.
    assert list((tmp_path / "data" / "set" / "a" / "staging").glob("*.json"))


def test_verification_tells_every_damaged_file(
    raw: Path, tmp_path: Path, whole: tuple[dict[str, Any], float]
) -> None:
    assert run(raw, tmp_path / "data").returncode == 0
    verify = [
        sys.executable,
        "-m",
        "biomamba.verify",
        f"paths.data_dir={tmp_path}/data",
        f"paths.run_dir={tmp_path}/run",
        "name=set",
    ]
    done = subprocess.run(verify, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" ok ") == 2
    store = tmp_path / "data" / "set" / "a"
    victim = store / "00001.train.bin"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    facts = store / "00000.train.facts"
    facts.write_bytes(facts.read_bytes().replace(b"1991", b"1992", 1))
    (store / "staging" / "00002.bands").unlink()
    (store / "left").write_text("x")
    done = subprocess.run(verify, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "4 problems" in done.stdout
    for part in (
        "00001.train.bin does not match its sha256",
        "00000.train.facts does not match its sha256",
        "staging/00002.bands is missing",
        "left is unexpected",
    ):
        assert part in done.stderr
