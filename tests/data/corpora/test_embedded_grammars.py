"""The three grammars."""

import string

import pytest

from biomamba.data.corpora.embedded import GRAMMARS, Grammar

CASES = pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=GRAMMARS.keys())


def slots(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


@CASES
def test_every_slot_of_a_template_has_values(grammar: Grammar) -> None:
    known = {"name", *grammar.facts, *grammar.noise, *grammar.numbers}
    templates = [grammar.title, *(text for section in grammar.sections for text in section)]
    assert {slot for template in templates for slot in slots(template)} <= known


@CASES
def test_every_value_is_used(grammar: Grammar) -> None:
    templates = [
        grammar.title,
        grammar.name_form,
        *(text for section in grammar.sections for text in section),
    ]
    used = {slot for template in templates for slot in slots(template)}
    assert {*grammar.facts, *grammar.noise, *grammar.numbers} <= used


@CASES
def test_texts_are_ascii(grammar: Grammar) -> None:
    assert "".join(text for section in grammar.sections for text in section).isascii()
