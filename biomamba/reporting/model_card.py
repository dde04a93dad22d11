"""The README.md of an exported folder: only what records say; what they do not say is not known."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from biomamba.model.config import MambaConfig
from biomamba.reporting.card_results import CardResults, results_section
from biomamba.reporting.card_training import (
    contamination_section,
    data_section,
    procedure_section,
    restriction_note,
)
from biomamba.runtime.errors import ConfigError
from biomamba.training.lineage import Lineage

README = "README.md"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True, kw_only=True)
class CardTerms:
    """What no record knows.

    Attributes:
        license: Identifier of the Hub for the terms of the weights; None if not stated.
        language: Codes of the languages of the model, as `en`; empty if not stated.

    Raises:
        ConfigError: A value has not the form of one.
    """

    license: str | None = None
    language: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise ConfigError(
                f"card.license is {self.license!r}; give an identifier of the Hub, as apache-2.0, "
                "or null if it is not decided"
            )
        for code in self.language:
            if not _LANGUAGE.fullmatch(code):
                raise ConfigError(f"card.language has {code!r}; give codes as en or de")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that a card is made of.

    Attributes:
        name: Of the model: that of its folder.
        config: Of the model.
        origin: Of the weights, as the export records it.
        dtype: Of the written weights.
        lineage: How it was trained.
        results: Evaluations of these weights.
        terms: What the user states.
        has_tokenizer: Whether the folder has one.
    """

    name: str
    config: MambaConfig
    origin: Mapping[str, Any]
    dtype: str
    lineage: Lineage
    results: Sequence[CardResults]
    terms: CardTerms
    has_tokenizer: bool = True


def model_card(facts: CardFacts) -> str:
    """Return the text of the card."""
    note = restriction_note(facts.lineage)
    sections = {
        "": "\n\n".join(filter(None, [_description(facts), note])),
        "How to load it": _loading(facts),
        "Training data": data_section(facts.lineage),
        "Contamination": contamination_section(facts.lineage),
        "Training procedure": procedure_section(facts.lineage, facts.origin),
        "Results": results_section(facts.results, facts.dtype),
        "Intended use and limits": _limits(facts),
        "Licence": _licence(facts.terms),
        "Citation": _citation(facts),
    }
    body = [f"## {title}\n\n{text}" if title else text for title, text in sections.items()]
    return "\n\n".join([f"---\n{front_matter(facts)}---", f"# {facts.name}", *body]) + "\n"


def front_matter(facts: CardFacts) -> str:
    """Return the YAML that the Hub reads; keys of which nothing is known are not there."""
    kind = facts.config.layer.lower()
    terms, lineage = facts.terms, facts.lineage
    content: dict[str, Any] = {}
    if terms.language:
        content["language"] = list(terms.language)
    content["license"] = terms.license or "other"
    if terms.license is None:
        content["license_name"] = "not-stated"
    if lineage.base_model:
        content["base_model"] = lineage.base_model
    if datasets := _datasets(lineage):
        content["datasets"] = datasets
    content["library_name"] = "transformers"
    content["pipeline_tag"] = "text-generation"
    tags = ["biomamba", "mamba" if kind == "mamba1" else kind]
    content["tags"] = [*tags, "restricted-data"] if lineage.restrictions() else tags
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _datasets(lineage: Lineage) -> list[str]:
    """Return the hub datasets of all runs; local files have no id there."""
    found = {
        facts.dataset
        for run in lineage.runs
        for pool in run.stores.values()
        for facts in pool
        if facts.dataset
    }
    return sorted(found)


def _description(facts: CardFacts) -> str:
    config = facts.config
    kind = "Mamba-1" if config.layer == "Mamba1" else config.layer
    return (
        f"A {kind} causal language model, written by biomamba: {config.n_layer} layers, width "
        f"{config.d_model}, state {config.d_state}, {config.vocab_size:,} ids, weights in "
        f"{facts.dtype}. Everything below is taken from the records of its runs and evaluations; "
        "what they do not say is called not known.\n\n"
        f"sha256 of the source of the weights: `{facts.origin.get('sha256', 'not known')}`"
    )


def _loading(facts: CardFacts) -> str:
    if not facts.has_tokenizer:
        return (
            "`AutoModelForCausalLM.from_pretrained(folder)`. No tokenizer is in this folder: the "
            "one that the model was trained with is not known to this card."
        )
    return f"""\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{facts.name}")
tokenizer = AutoTokenizer.from_pretrained("{facts.name}")
inputs = tokenizer(tokenizer.bos_token + "The patient was", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```

```sh
python -m biomamba.generate checkpoint={facts.name} prompt="The patient was"
python -m biomamba.evaluate checkpoint={facts.name} task=[pubmedqa]
```

Every document of the training begins with the end-of-document token, which is also the
beginning-of-document token: begin a prompt with it, as above (biomamba does it by itself). In a
text, AutoTokenizer reads the literal name of this token as the token; biomamba reads it as plain
text, and so does `tokenizer(text, split_special_tokens=True)`. Generation is greedy unless told
otherwise."""


def _limits(facts: CardFacts) -> str:
    subjects = list(dict.fromkeys(name for found in facts.results for name in found.subjects))
    measured = ", ".join(subjects) or "nothing that this card was given"
    return (
        "For research on language models. This is not a medical device, and it is not for clinical "
        "decisions: no output may be used to diagnose, treat or advise a person.\n\n"
        f"- Evaluated on: {measured}. Of anything else nothing is known.\n"
        "- It writes text that can be wrong and sound right, and it can repeat parts of its "
        "training data.\n"
        "- Nothing in its records tells of a measurement of bias."
    )


def _licence(terms: CardTerms) -> str:
    if terms.license is None:
        return (
            "Not stated. Ask those who published this folder before you use it; the licences of "
            "the training data above hold as well."
        )
    return (
        f"{terms.license}, as stated by those who published this folder; the licences of the "
        "training data above hold as well."
    )


def _citation(facts: CardFacts) -> str:
    lines = [
        "A paper about this model is not known to this card. The architecture:",
    ]
    mamba1 = "Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023"
    mamba2 = (
        "Dao and Gu, Transformers are SSMs: Generalized Models and Efficient Algorithms Through "
        "Structured State Space Duality, 2024"
    )
    lines.append(f"{mamba1 if facts.config.layer == 'Mamba1' else mamba2}.")
    if facts.lineage.base_model:
        lines.append(f"Cite also what `{facts.lineage.base_model}` asks for.")
    return " ".join(lines)
