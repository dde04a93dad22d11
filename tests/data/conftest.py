"""In-memory corpora and small token stores for the data tests."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from biomamba.data.document import Document, Reject
from biomamba.data.manifest import Manifest
from biomamba.data.rows import RawShard, Row
from biomamba.data.store import StorePolicy, StoreWriter
from biomamba.data.tokenizer import Tokenizer


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
    folder: Path, corpus: ListCorpus, tokenizer: Tokenizer, policy: StorePolicy, **options: bool
) -> Manifest:
    """Write a store without showing progress."""
    writer = StoreWriter(folder, corpus, tokenizer, policy)
    overwrite = options.get("overwrite", False)
    return writer.write(corpus.shards(), lambda shards, rows: None, overwrite=overwrite)


@pytest.fixture
def write_corpus() -> Callable[..., Manifest]:
    """Return write(folder, corpus, tokenizer, policy, overwrite=False)."""
    return write


@pytest.fixture
def content_of() -> Callable[[Path], dict[str, bytes]]:
    """Return a function from a folder to the bytes of its files, the lock aside."""

    def _content(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in files
            if path.name != ".lock"
        }

    return _content
