"""C4: cleaned web pages, keyed by their URL."""

from biomamba.data.corpora.columns import ColumnCorpus
from biomamba.data.rows import RowSource


class C4(ColumnCorpus):
    """Web pages with columns text, url and timestamp; the text is kept as C4 cleaned it.

    Args:
        rows: Where the rows come from.
        licence: Terms of use, written into the manifest.
        id_column: Column of the URL; None names by the hash of the text.
        min_chars: Shorter texts are left out.
        domain: Name of the kind of text.

    Source: LeoYML/BioMamba@e61db22 drops C4 texts below 100 characters.
    """

    def __init__(
        self,
        rows: RowSource,
        licence: str,
        id_column: str | None = "url",
        min_chars: int = 100,
        domain: str = "web",
    ) -> None:
        super().__init__(
            rows=rows,
            domain=domain,
            licence=licence,
            text_columns=["text"],
            id_column=id_column,
            min_chars=min_chars,
        )
