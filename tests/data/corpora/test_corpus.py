"""What holds for every corpus under conf/corpus."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from biomamba.config.check import build, check_config
from biomamba.config.safety import conf_dir
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.document import Document
from biomamba.runtime.errors import ConfigError

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
    "local_mimic_discharge": (106, 2),
    "local_mimic_radiology": (57, 3),
    "local_mtsamples": (2_326, 31),
}
REPEATED_IDS = {"local_mimic_discharge": 1}  # the synthetic ids of that sample
# What only the user can know.
MANDATORY = {"files": ("corpora.files.domain=notes", "corpora.files.rows.files=[notes.txt]")}
Compose = Callable[..., DictConfig]


def make(name: str, compose: Compose, raw_dir: Path, *given: str) -> Corpus:
    given = (f"paths.raw_dir={raw_dir}", *MANDATORY.get(name, ()), *given)
    cfg = compose("prepare", f"corpus=[{name}]", *given)
    ((_, node),) = cfg.corpora.items()
    corpus: Corpus = build(node)
    return corpus


def test_the_corpora_are_found() -> None:
    assert len(NAMES) >= 21
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
    name: str, compose: Compose, real_data: Path, tmp_path: Path
) -> None:
    corpus = make(name, compose, real_data, f"paths.data_dir={tmp_path}")
    rows = [row for shard in corpus.shards() for row in corpus.documents(shard)]
    kept = [row for row in rows if isinstance(row, Document)]
    assert (len(kept), len(rows) - len(kept)) == COUNTS[name]
    assert {document.domain for document in kept} == {corpus.domain}
    repeated = len(kept) - len({document.id for document in kept})
    assert repeated == REPEATED_IDS.get(name, 0)


def test_corpora_of_one_source_share_their_keys(compose: Compose) -> None:
    """A local sample is stored under the name of what it stands for; others do not collide."""
    keys = {
        name: next(iter(compose("prepare", f"corpus=[{name}]").corpora))
        for name in NAMES
        if not name.startswith("embedded_")
    }
    assert {name: key for name, key in keys.items() if name.removeprefix("local_") != key} == {}


def test_your_own_files_need_their_names_and_a_domain(compose: Compose) -> None:
    with pytest.raises(ConfigError) as error:
        check_config(compose("prepare", "corpus=[files]"))
    assert "corpora.files.domain" in str(error.value)
    assert "corpora.files.rows.files" in str(error.value)
