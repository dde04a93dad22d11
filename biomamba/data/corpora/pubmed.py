"""PubMed and MEDLINE abstracts: title, blank line, abstract."""

import re

from biomamba.data.corpora.columns import ColumnCorpus
from biomamba.data.rows import RowSource

_PMID_PREFIX = re.compile(r"^pmid:\s*", re.IGNORECASE)


class PubMedAbstracts(ColumnCorpus):
    r"""Abstracts as `title + "\n\n" + abstract`; a row without an abstract is left out.

    Fits `cyrilzakka/pubmed-medline` (title, content) and JSON lines of (title, abstract).

    Args:
        rows: Where the rows come from.
        licence: Terms of use, written into the manifest.
        title_column: Column of the title; it may be empty.
        abstract_column: Column of the abstract.
        id_column: Column of the PMID, `123` or `PMID:123`; None names by the hash of the text.
        min_chars: Shorter texts are left out.
        domain: Name of the kind of text.
        year_column: Column of the year of publication, kept beside the tokens; None keeps none.

    Source: LeoYML/BioMamba@e61db22, title and content joined by a blank line, empty content
    dropped.
    """

    def __init__(
        self,
        rows: RowSource,
        licence: str,
        title_column: str = "title",
        abstract_column: str = "abstract",
        id_column: str | None = "pmid",
        min_chars: int = 1,
        domain: str = "pubmed",
        year_column: str | None = None,
    ) -> None:
        super().__init__(
            rows=rows,
            domain=domain,
            licence=licence,
            text_columns=[title_column, abstract_column],
            id_column=id_column,
            min_chars=min_chars,
            optional_columns=[title_column],
            year_column=year_column,
        )

    def clean_id(self, value: str) -> str:
        """Reduce `PMID:123` to `123`, so that one article has one key in every layout."""
        return _PMID_PREFIX.sub("", value)
