"""The model card: front matter that is YAML, all sections, nothing invented."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from biomamba.data.store.format import StoreFacts
from biomamba.model.config import Mamba1Config, Mamba2Config
from biomamba.reporting.model_card import CardFacts, CardTerms, front_matter, model_card
from biomamba.runtime.errors import ConfigError
from biomamba.training.lineage import Lineage, TrainedRun

STORE = StoreFacts(
    corpus="abstracts",
    domain="pubmed",
    licence="NLM terms",
    documents=1,
    tokens=1,
    bytes=1,
    dataset="owner/abstracts",
    revision="f" * 40,
    benchmarks=None,
    rejects={},
)
RUN = TrainedRun("cpt", {}, {}, {"pubmed": [STORE]}, ())
FACTS = CardFacts(
    name="small",
    config=Mamba2Config(d_model=24, n_layer=2, vocab_size=257, d_state=8, headdim=8),
    origin={"sha256": "a" * 64},
    dtype="float32",
    lineage=Lineage((RUN,), "state-spaces/mamba2-130m", "the published weights"),
    results=[],
    terms=CardTerms(license="apache-2.0", language=["en"]),
)


def parsed(facts: CardFacts) -> dict[str, Any]:
    content = model_card(facts).split("---\n")[1]
    assert content == front_matter(facts)
    found: dict[str, Any] = yaml.safe_load(content)
    return found


def test_the_front_matter_is_yaml_with_what_is_known() -> None:
    assert parsed(FACTS) == {
        "language": ["en"],
        "license": "apache-2.0",
        "base_model": "state-spaces/mamba2-130m",
        "datasets": ["owner/abstracts"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["biomamba", "mamba2"],
    }


def test_what_is_not_known_is_not_in_the_front_matter() -> None:
    found = parsed(replace(FACTS, lineage=Lineage((), None, "not known"), terms=CardTerms()))

    assert (found["license"], found["license_name"]) == ("other", "not-stated")
    assert not found.keys() & {"language", "base_model", "datasets"}


def test_restricted_weights_are_tagged_and_have_a_box() -> None:
    secret = replace(RUN, stores={"a": [replace(STORE, licence="PhysioNet 1.5.0")]})
    facts = replace(FACTS, lineage=Lineage((secret,), None, "random weights"))

    assert "restricted-data" in parsed(facts)["tags"]
    assert "> **Restricted data.**" in model_card(facts)
    assert "Restricted data" not in model_card(FACTS)


def test_all_sections_are_there_and_the_card_is_ascii() -> None:
    text = model_card(FACTS)
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]

    assert titles == [
        "How to load it",
        "Training data",
        "Contamination",
        "Training procedure",
        "Results",
        "Intended use and limits",
        "Licence",
        "Citation",
    ]
    assert "not a medical device" in text
    assert "No results were given" in text
    assert text.isascii()


def test_mamba1_is_called_so() -> None:
    facts = replace(FACTS, config=Mamba1Config(d_model=24, n_layer=2, vocab_size=257))

    assert parsed(facts)["tags"] == ["biomamba", "mamba"]
    assert "A Mamba-1 causal" in model_card(facts)


def test_a_folder_without_tokenizer_says_so() -> None:
    assert "No tokenizer is in this folder" in model_card(replace(FACTS, has_tokenizer=False))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"license": "My own\nlicense: mit"}, r"card\.license"),
        ({"language": ["English"]}, r"card\.language"),
    ],
)
def test_terms_of_another_form_are_refused(terms: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CardTerms(**terms)
