"""What holds for every corpus under conf/corpus."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from biomamba.config.build import build
from biomamba.config.location import conf_dir
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import Document

NAMES = sorted(path.stem for path in (conf_dir() / "corpus").glob("*.yaml"))
LOCAL = [name for name in NAMES if name.startswith("local_")]
# Per corpus: documents kept and rows left out, counted with other tools.
COUNTS = {
    "local_pubmed": (12_174, 0),
    "local_c4": (230, 0),
    "local_c4_prefix": (1_480, 0),
    "local_openwebtext": (1_000, 0),
    "local_wikipedia": (1_053, 44),
    "local_wikitext": (120, 0),
    "local_medline": (1_276, 206),
}
Compose = Callable[..., DictConfig]


def make(name: str, compose: Compose, raw_dir: Path) -> Corpus:
    cfg = compose("prepare", f"corpus=[{name}]", f"paths.raw_dir={raw_dir}")
    ((_, node),) = cfg.corpora.items()
    corpus: Corpus = build(node)
    return corpus


def test_the_corpora_are_found() -> None:
    assert len(NAMES) >= 14
    assert set(LOCAL) == set(COUNTS)


@pytest.mark.parametrize("name", NAMES)
def test_every_corpus_can_be_built_and_states_domain_and_licence(
    name: str, compose: Compose, tmp_path: Path
) -> None:
    corpus = make(name, compose, tmp_path)
    assert corpus.domain
    assert corpus.licence
    assert corpus.settings()["layout"] == type(corpus).__name__


@pytest.mark.parametrize("name", LOCAL)
def test_real_files_give_the_documents_counted_elsewhere(
    name: str, compose: Compose, real_data: Path
) -> None:
    corpus = make(name, compose, real_data)
    rows = [row for shard in corpus.shards() for row in corpus.documents(shard)]
    kept = [row for row in rows if isinstance(row, Document)]
    assert (len(kept), len(rows) - len(kept)) == COUNTS[name]
    assert {document.domain for document in kept} == {corpus.domain}
    assert len({document.id for document in kept}) == len(kept)
