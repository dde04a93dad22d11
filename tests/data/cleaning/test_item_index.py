"""The look-up of benchmark items against plain Python sets of n-grams."""

import re
from collections.abc import Sequence

import numpy as np
import pytest

from biomamba.data.cleaning.benchmark_filter import HIT_DTYPE, Hits, ItemIndex, Lookup, Rule
from biomamba.data.cleaning.benchmarks import Item
from biomamba.data.cleaning.ngrams import hash_words
from biomamba.data.document import Document


def hits(items: Sequence[Item], documents: Sequence[Document], n: int, least: int) -> Hits:
    index = ItemIndex.of([("set", item) for item in items], n, least)
    return index.hits(documents, hash_words([document.text for document in documents]))


def as_set(found: Hits) -> set[tuple[int, int, Rule, int]]:
    rows = {(int(h["document"]), int(h["item"]), Rule(h["rule"]), int(h["ngrams"])) for h in found}
    assert len(rows) == found.size
    return rows


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def random_text(generator: np.random.Generator, size: int) -> str:
    return " ".join("abcdefg"[i] for i in generator.integers(0, 7, size))


@pytest.mark.parametrize("least", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_ngram_hits_are_the_shared_sets_of_plain_python(n: int, least: int) -> None:
    generator = np.random.default_rng(n)
    items = [
        Item(str(i), [random_text(generator, size) for size in generator.integers(0, 12, 3)])
        for i in range(30)
    ]
    documents = [
        Document(f"{random_text(generator, size)} {items[size % 30].texts[0]}", str(size), "web")
        for size in generator.integers(0, 40, 60)
    ]
    expected = set()
    for place, document in enumerate(documents):
        for number, item in enumerate(items):
            own = set().union(*(ngrams(text, n) for text in item.texts))
            shared = own & ngrams(document.text, n)
            if shared and len(shared) >= min(least, len(own)):
                expected.add((place, number, Rule.NGRAM, len(shared)))

    assert as_set(hits(items, documents, n, least)) == expected
    assert expected


def test_ngrams_never_cross_the_texts_of_an_item() -> None:
    item = Item("1", ["one two", "three four"])
    document = Document("one two three four", "d", "web")

    assert not hits([item], [document], 3, 1).size
    assert hits([item], [document], 2, 1)["ngrams"].tolist() == [2]


def test_an_item_of_few_ngrams_needs_no_more_than_it_has() -> None:
    items = [Item("short", ["a b c d"]), Item("long", ["a b c d e f g"])]
    document = Document("x a b c d x", "d", "web")

    assert as_set(hits(items, [document], 3, 3)) == {(0, 0, Rule.NGRAM, 2)}


def test_an_item_without_an_ngram_cannot_match() -> None:
    index = ItemIndex.of([("set", Item("1", ["too short"])), ("set", Item("2", []))], 13, 3)

    assert index.needed.tolist() == [0, 0]
    assert not index.hits([Document("too short", "d", "web")], hash_words(["too short"])).size


def test_pmids_name_documents_of_pubmed_only() -> None:
    items = [Item("a", [], pmids=["1", "2"]), Item("b", [], pmids=["2"])]
    documents = [
        Document("", "2", "pubmed"),
        Document("", "2", "web"),
        Document("", "3", "pubmed"),
        Document("", "1", "pubmed"),
    ]

    assert as_set(hits(items, documents, 13, 3)) == {
        (0, 0, Rule.PMID, 0),
        (0, 1, Rule.PMID, 0),
        (3, 0, Rule.PMID, 0),
    }


def test_titles_name_documents_of_wikipedia_by_their_first_line() -> None:
    items = [Item("M", [], title="M @-@ 82 ( Michigan highway )"), Item("N", [], title="N")]
    documents = [
        Document("M-82 (Michigan highway)\n\nIt is a road.", "1", "wikipedia"),
        Document("M-82 (Michigan highway)\n\nIt is a road.", "2", "web"),
        Document("A road\n\nM-82 (Michigan highway)", "3", "wikipedia"),
        Document(" = N = ", "4", "wikipedia"),
    ]

    assert as_set(hits(items, documents, 13, 3)) == {(0, 0, Rule.TITLE, 0), (3, 1, Rule.TITLE, 0)}


def test_hits_of_no_documents_and_no_items_are_empty() -> None:
    assert hits([], [Document("a b c", "1", "pubmed")], 2, 1).dtype == HIT_DTYPE
    assert hits([Item("1", ["a b"], ["1"], "t")], [], 2, 1).size == 0


def test_a_lookup_returns_every_item_of_a_hash_once() -> None:
    largest = 2**64 - 1
    lookup = Lookup.of([5, largest, 5, 5], [2, 0, 1, 2])
    places, items = lookup.find(np.array([largest, 4, 5], np.uint64))

    assert list(zip(places.tolist(), items.tolist(), strict=True)) == [(0, 0), (2, 1), (2, 2)]
    assert lookup.contains(np.array([largest, 4, 5, 6], np.uint64)).tolist() == [
        True,
        False,
        True,
        False,
    ]


def passage_hits(items: Sequence[Item], texts: Sequence[str], share: float = 0.5) -> Hits:
    named = [("set", item) for item in items]
    index = ItemIndex.of(named, 13, 3, passage_words=3, passage_share=share)
    documents = [Document(text, str(n), "web") for n, text in enumerate(texts)]
    return index.hits(documents, hash_words(texts))


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_passage_hits_are_the_shares_of_plain_python(share: float) -> None:
    generator = np.random.default_rng(7)
    items = [
        Item(str(i), [random_text(generator, size) for size in generator.integers(0, 12, 3)])
        for i in range(20)
    ]
    texts = [random_text(generator, size) for size in generator.integers(0, 40, 80)]
    expected = {}
    for place, text in enumerate(texts):
        for number, item in enumerate(items):
            for own in (ngrams(passage, 3) for passage in item.texts):
                shared = len(own & ngrams(text, 3))
                if len(own) >= 3 and shared >= max(share * len(own), min(4, len(own))):
                    expected[place, number] = max(expected.get((place, number), 0), shared)

    found = as_set(passage_hits(items, texts, share=share))

    assert found == {(*pair, Rule.PASSAGE, count) for pair, count in expected.items()}
    assert expected or share == 1.0


def test_a_passage_is_found_within_a_document_and_a_phrase_of_it_is_not() -> None:
    question = Item(
        "q", ["Is rest of help after a long walk?", "unrelated words of an answer here"]
    )
    texts = [
        "We asked: is rest OF help \u2013 after a long walk at all?",
        "is rest of help after lunch",
        "Is rest of help; unrelated words of an answer",
    ]

    assert as_set(passage_hits([question], texts)) == {(0, 0, Rule.PASSAGE, 6)}


def test_a_copy_that_long_ngrams_find_is_counted_once() -> None:
    words = " ".join(f"w{n}" for n in range(20))

    assert as_set(passage_hits([Item("q", [words])], [words])) == {(0, 0, Rule.NGRAM, 8)}
