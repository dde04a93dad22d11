"""Wikipedia articles: title, blank line, text."""

from biomamba.data.corpora.columns import ColumnCorpus
from biomamba.data.rows import RowSource


class Wikipedia(ColumnCorpus):
    """Articles with columns id, url, title and text, keyed by the page id.

    Deviation: LeoYML/BioMamba@e61db22 trains on the text column alone; here the title is the first
    line, because the plain text often begins in mid-subject.

    Args:
        rows: Where the rows come from.
        licence: Terms of use, written into the manifest.
        min_chars: Shorter texts, title included, are left out.
        domain: Name of the kind of text.
    """

    def __init__(
        self,
        rows: RowSource,
        licence: str,
        min_chars: int = 100,
        domain: str = "wikipedia",
    ) -> None:
        super().__init__(
            rows=rows,
            domain=domain,
            licence=licence,
            text_columns=["title", "text"],
            id_column="id",
            min_chars=min_chars,
        )
