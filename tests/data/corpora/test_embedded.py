"""The embedded corpora: deterministic, distinct, of the promised size."""

from collections import Counter
from itertools import pairwise

import pytest

from biomamba.data.corpora.embedded import EmbeddedCorpus
from biomamba.data.document import Document
from biomamba.runtime.errors import ConfigError

DOMAINS = ["biomedical", "web", "encyclopaedic"]


def documents(domain: str, num_documents: int = 200, seed: int = 0) -> list[Document]:
    corpus = EmbeddedCorpus(domain, num_documents, seed)
    rows = [row for shard in corpus.shards() for row in corpus.documents(shard)]
    return [row for row in rows if isinstance(row, Document)]


@pytest.mark.parametrize("domain", DOMAINS)
def test_texts_are_deterministic_and_do_not_repeat(domain: str) -> None:
    first = documents(domain)
    assert first == documents(domain)
    assert len({document.text for document in first}) == 200
    assert len({document.id for document in first}) == 200


@pytest.mark.parametrize("domain", DOMAINS)
def test_lengths_are_between_300_and_1200_characters(domain: str) -> None:
    lengths = [len(document.text) for document in documents(domain)]
    assert min(lengths) >= 300
    assert max(lengths) <= 1200


def test_a_document_does_not_depend_on_the_size_of_the_corpus() -> None:
    assert documents("web", 700)[:200] == documents("web", 200)


def test_seeds_give_other_texts() -> None:
    assert documents("web", 20)[3].text != documents("web", 20, seed=1)[3].text


def test_domains_differ_in_their_words() -> None:
    words = {
        domain: {
            word
            for document in documents(domain)
            for word in document.text.split()
            if word.isalpha()
        }
        for domain in DOMAINS
    }
    for first, second in pairwise([*DOMAINS, DOMAINS[0]]):
        overlap = len(words[first] & words[second])
        assert overlap < 0.1 * min(len(words[first]), len(words[second]))


@pytest.mark.parametrize("domain", DOMAINS)
def test_subjects_come_back_so_that_facts_can_be_learned(domain: str) -> None:
    titles = Counter(document.text.split("\n")[0] for document in documents(domain, 400))
    assert titles.most_common(1)[0][1] >= 2


def test_shards_cover_the_documents_without_a_gap() -> None:
    names = [shard.name for shard in EmbeddedCorpus("web", 1_100).shards()]
    assert names == ["web-000000-000500", "web-000500-001000", "web-001000-001100"]


@pytest.mark.parametrize(
    ("fields", "match"),
    [({"domain": "pubmed"}, "biomedical, web, encyclopaedic"), ({"num_documents": 0}, ", found 0")],
)
def test_impossible_corpora_are_refused(fields: dict[str, object], match: str) -> None:
    options: dict[str, object] = {"domain": "web"} | fields
    with pytest.raises(ConfigError, match=match):
        EmbeddedCorpus(**options)  # type: ignore[arg-type]
