"""In-memory corpora, small token stores and a server with faults for the data tests."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.document import Document, Reject
from biomamba.data.prepare.pipeline import Job, PrepareProgress, finish_stores, stage_stores
from biomamba.data.rows import LocalRows, RawShard, Row
from biomamba.data.store.format import Manifest
from biomamba.data.store.writer import Store, StorePolicy
from biomamba.data.tokenizer import EOD_TOKEN, Tokenizer
from biomamba.runtime.files import folder_lock

WORDS = [f"{first}{second}" for first in "bcdfglmnprst" for second in ("an", "ir", "ol", "ute")]


@dataclass(frozen=True)
class ListShard:
    """A raw shard held in memory; `fail_at` raises before that row."""

    name: str
    content: Sequence[Document | Reject]
    fail_at: int | None = None

    def rows(self) -> Iterator[Row | Reject]:
        return iter(())

    def fingerprint(self) -> str:
        return repr(self.content)


@dataclass(frozen=True)
class ListCorpus:
    """A corpus held in memory."""

    raw: Sequence[ListShard]
    domain: str = "test"
    licence: str = "none"
    options: dict[str, Any] = field(default_factory=dict)

    def shards(self) -> Sequence[RawShard]:
        return self.raw

    def documents(self, shard: RawShard) -> Iterator[Document | Reject]:
        assert isinstance(shard, ListShard)
        for number, row in enumerate(shard.content):
            if number == shard.fail_at:
                raise KeyboardInterrupt
            yield row

    def settings(self) -> dict[str, Any]:
        return {"layout": "ListCorpus", **self.options}


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return Tokenizer.byte_tokenizer()


@pytest.fixture
def make_corpus() -> Callable[..., ListCorpus]:
    """Return make(shards, **fields): a corpus of lists of texts, documents or rejects."""

    def _make(shards: Sequence[Sequence[str | Document | Reject]], **fields: Any) -> ListCorpus:
        raw = [
            ListShard(
                f"raw-{number}",
                [
                    Document(row, f"{number}-{i}", "test") if isinstance(row, str) else row
                    for i, row in enumerate(rows)
                ],
            )
            for number, rows in enumerate(shards)
        ]
        return ListCorpus(raw, **fields)

    return _make


@pytest.fixture
def write_store(
    tmp_path: Path, byte_tokenizer: Tokenizer, make_corpus: Callable[..., ListCorpus]
) -> Callable[..., Path]:
    """Return write(name, texts, ...): a finished byte-level store of these texts."""

    def _write(
        name: str,
        texts: Sequence[str],
        *,
        num_shards: int = 1,
        policy: StorePolicy | None = None,
    ) -> Path:
        policy = policy or StorePolicy(val_permille=0, test_permille=0)
        documents = [Document(text, f"{name}-{i}", "test") for i, text in enumerate(texts)]
        corpus = make_corpus([documents[number::num_shards] for number in range(num_shards)])
        folder = tmp_path / "set" / name
        write(folder, corpus, byte_tokenizer, policy)
        return folder

    return _write


def write(
    folder: Path, corpus: ListCorpus, tokenizer: Tokenizer, policy: StorePolicy, **options: Any
) -> Manifest:
    """Write a store, the only one of its set as far as duplicates go."""
    cleaning = options.get("cleaning", Cleaning(exact_duplicates=False))
    job = Job(overwrite=options.get("overwrite", False))
    store = Store(folder, corpus, corpus.shards(), tokenizer, policy, cleaning)
    with folder_lock(folder, "writing token store"), PrepareProgress() as progress:
        stage_stores([store], job, progress)
        return finish_stores(folder.parent, [store], progress)[folder.name]


@pytest.fixture
def write_corpus() -> Callable[..., Manifest]:
    """Return write(folder, corpus, tokenizer, policy, overwrite=False)."""
    return write


@pytest.fixture
def file_corpora(tmp_path: Path) -> dict[str, ColumnCorpus]:
    """Two corpora of four files each, with equal and nearly equal texts within and across.

    Of the first one years are known, but for every fifth document.
    """
    corpora = {}
    for name, domain in (("a", "pubmed"), ("b", "web")):
        files = []
        for number in range(4):
            rows = [
                {"id": f"{i}", "text": _text(name, i), "year": 2000 + i % 9 if i % 5 else None}
                for i in range(number * 40, number * 40 + 44)
            ]
            path = tmp_path / f"raw-{name}-{number}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            files.append(str(path))
        year = "year" if name == "a" else None
        rows_of = LocalRows(files)
        corpora[name] = ColumnCorpus(rows_of, domain, "none", ["text"], "id", year_column=year)
    return corpora


def _text(name: str, number: int) -> str:
    """Every third text is one of 20 templates with up to two words changed; others are unique."""
    rng = random.Random(f"{name}{number}" if number % 3 else f"template {number % 20}")
    words = [rng.choice(WORDS) for _ in range(60)]
    changes = random.Random(f"change {name}{number}")
    for _ in range(number % 3 or changes.randrange(3)):
        words[changes.randrange(60)] = changes.choice(WORDS)
    if number % 7 == 0:
        words[30] = EOD_TOKEN  # must stay plain text, in every process
    return " ".join(words)


@pytest.fixture
def content_of() -> Callable[[Path], dict[str, bytes]]:
    """Return a function from a folder to the bytes of its files, locks aside."""

    def _content(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in files
            if not path.name.endswith(".lock")
        }

    return _content


@dataclass
class FaultServer:
    """Files on the loopback device, each with a list of faults that come before it is served.

    Faults: a status such as `404`, `drop` (half of what is left, then the connection ends), `hang`
    (half, then silence), `whole` (the range asked for is ignored), `refuse` (no answer), `other`
    (other bytes of the same length). Faults of `late_faults` come where a request does not start at
    the first byte.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    late_faults: dict[str, list[str]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    retry_after_seconds: int = 0
    released: Event = field(default_factory=Event)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, asked = handler.path.lstrip("/"), handler.headers.get("Range")
        self.requests.append((path, asked))
        is_late = asked is not None and not asked.startswith("bytes=0-")
        faults = self.faults.get(path) or (self.late_faults.get(path, []) if is_late else [])
        fault = faults.pop(0) if faults else ""
        if fault.isdigit() or path not in self.files:
            self._refuse(handler, int(fault or "404"))
        elif fault != "refuse":
            self._serve(handler, self.files[path], asked, fault)

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.send_header("Retry-After", str(self.retry_after_seconds))
        handler.end_headers()

    def _serve(
        self, handler: BaseHTTPRequestHandler, content: bytes, asked: str | None, fault: str
    ) -> None:
        start, end = _range(asked if fault != "whole" else None, len(content))
        if start and start >= len(content):
            self._refuse(handler, 416)
            return
        body = content[start:end] if fault != "other" else bytes(end - start)
        is_part = len(body) < len(content)
        handler.send_response(206 if is_part else 200)
        if is_part:
            handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        is_broken = fault in ("drop", "hang")
        with suppress(ConnectionError):  # some ask for more than they read
            handler.wfile.write(body[: len(body) // 2] if is_broken else body)
        if fault == "hang":
            self.released.wait(120)


def _range(asked: str | None, size: int) -> tuple[int, int]:
    """Return start and end of a range such as `bytes=3-` or `bytes=3-6`."""
    begin, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
    return int(begin), min(int(last) + 1, size) if last else size


@pytest.fixture
def fault_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """Serve files on the loopback device while the test runs."""
    monkeypatch.setenv("no_proxy", "*")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def do_HEAD(self) -> None:
            content = server.files.get(self.path.lstrip("/"))
            self.send_response(404 if content is None else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = FaultServer(f"http://127.0.0.1:{http.server_port}/")
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        http.server_close()
        thread.join()
