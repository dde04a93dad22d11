"""PubMed as MedRAG cut it out of the XML: abstracts whose damaged markup is mended."""

import re
from html import unescape
from typing import Any

from biomamba.data.corpora.pubmed import PubMedAbstracts
from biomamba.data.rows import RowSource

# Goes up when the same row would give another text.
_VERSION = 1
# MedRAG's reader drops every `>`: `10<sup>-5</sup>` is stored as `10<sup-5</sup`. Its titles keep
# theirs. A `<` of the article itself is still written as `&lt;`.
_TAG = re.compile(r"<(/?)(sup|sub|i|b|u)(>?)")
# Longest names first, because the text follows a name without a gap.
_EMPTY_NAMES = "maligngroup|malignmark|mprescripts|mglyph|mspace|none"
_FORMULA_NAMES = (
    "mmultiscripts|mlabeledtr|annotation|munderover|semantics|menclose|mfenced|mpadded|mphantom|"
    "msubsup|munder|mtable|mstyle|mtext|mover|mfrac|mroot|msqrt|math|mrow|msub|msup|mtd|mtr|"
    "mi|mn|mo|ms"
)
_ATTRIBUTES = r'(?:\s+[\w:.-]+="[^"<]*")*'
_FORMULA_TAG = re.compile(
    rf"</?mml:(?:{_EMPTY_NAMES}){_ATTRIBUTES}\s*/?"
    rf"|</?(?:DispFormula|mml:(?:{_FORMULA_NAMES})){_ATTRIBUTES}"
)
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|#\d+|#[xX][0-9a-fA-F]+);")


class MedRag(PubMedAbstracts):
    r"""Rows of `MedRAG/pubmed`, as `title + "\n\n" + abstract`.

    Deviation: headings of structured abstracts, and every `>` that the XML wrote as itself, are
    lost in the source and stay so; `medline` reads the same articles whole.

    Args:
        rows: Where the rows come from.
        licence: Terms of use, written into the manifest.
        min_chars: Shorter texts are left out.
        domain: Name of the kind of text.
    """

    def __init__(
        self, rows: RowSource, licence: str, min_chars: int = 1, domain: str = "pubmed"
    ) -> None:
        super().__init__(
            rows=rows,
            licence=licence,
            abstract_column="content",
            id_column="PMID",
            min_chars=min_chars,
            domain=domain,
        )

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents, apart from the raw bytes."""
        return super().settings() | {"mending_version": _VERSION}

    def clean_text(self, value: str) -> str:
        """Take the remains of tags out, resolve entities and join runs of spaces."""
        return mend_markup(value)


def mend_markup(text: str) -> str:
    """Return the text without the remains of tags, with entities resolved, once.

    What may be a tag or a comparison, as in `a<b`, is only taken out where its closing tag follows.
    """
    if "<" in text:
        text = _drop_pairs(_FORMULA_TAG.sub("", text))
    if "&" in text:
        text = _ENTITY.sub(lambda found: unescape(found[0]), text)
    return " ".join(text.split())


def _drop_pairs(text: str) -> str:
    opened: dict[str, list[tuple[int, int]]] = {}
    spans: list[tuple[int, int]] = []
    for tag in _TAG.finditer(text):
        waiting = opened.setdefault(tag[2], [])
        if not tag[1]:
            waiting.append(tag.span())
        elif waiting:
            spans += [waiting.pop(), tag.span()]
    edges = [0, *(edge for span in sorted(spans) for edge in span), len(text)]
    return "".join(text[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2))
